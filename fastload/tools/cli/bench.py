"""`fastload bench`: race against torch's DataLoader on a fixed list of workloads."""

import argparse
import importlib.util
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from fastload.tools.bench.catalogue import WORKLOADS, find
from fastload.tools.bench.exchange import to_pytest_benchmark
from fastload.tools.bench.machine import BUSY_LOAD, Machine, describe_machine
from fastload.tools.bench.names import with_seed
from fastload.tools.bench.results import WorkloadResult
from fastload.tools.bench.suite import Settings, run_suite
from fastload.tools.bench.summary import to_document
from fastload.tools.bench.table import make_footer, make_table
from fastload.tools.bench.workload import Workload
from fastload.tools.cli.console import (
    count,
    make_output,
    make_progress,
    result_file,
    warn,
    write_json,
)
from fastload.tools.cli.exits import Exit, lacking

_FULL_ROUNDS = 3


def add_parser(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "bench",
        help="race against torch's DataLoader",
        description="Check that both loaders give equal batches, then measure them in turn, in "
        "fresh processes.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workload",
        type=_workload,
        action="append",
        metavar="NAME",
        help="run only this one (repeatable)",
    )
    parser.add_argument("--list", action="store_true", help="list the workloads and stop")
    parser.add_argument(
        "--workers",
        type=count(0),
        default=2,
        metavar="N",
        help="for workloads without a number of their own (default 2)",
    )
    parser.add_argument(
        "--rounds",
        type=count(1),
        metavar="N",
        help=f"pairs of measurements (default {_FULL_ROUNDS}, with --quick 1)",
    )
    parser.add_argument(
        "--limit",
        type=count(1),
        default=120,
        metavar="SECONDS",
        help="time limit of each process (default 120)",
    )
    parser.add_argument(
        "--loader",
        default="fastload",
        metavar="MODULE:CLASS",
        help="race this class instead of fastload's",
    )
    parser.add_argument(
        "--seed",
        type=count(0),
        metavar="N",
        help="race our loader with seed=N; compared are its samples, and it with itself without "
        "workers",
    )
    parser.add_argument("--quick", action="store_true", help="small: a smoke test, not a verdict")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write every run to FILE")
    parser.add_argument(
        "--pytest-benchmark-json",
        type=result_file,
        metavar="FILE",
        help="write a FILE for `pytest-benchmark compare`",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Run the suite, show the table, write the file."""
    if args.list:
        _list_workloads()
        return Exit.OK
    settings = Settings(
        workloads=tuple(args.workload or WORKLOADS),
        workers=args.workers,
        rounds=args.rounds or (1 if args.quick else _FULL_ROUNDS),
        quick=args.quick,
        limit_s=args.limit,
        candidate=args.loader if args.seed is None else with_seed(args.loader, args.seed),
    )
    missing = sorted({module for each in settings.workloads for module in each.missing()})
    if missing:
        raise lacking(missing, "bench")
    if args.pytest_benchmark_json and importlib.util.find_spec("pytest_benchmark") is None:
        raise lacking(["pytest-benchmark"], "bench")
    machine = describe_machine()
    if machine.load > BUSY_LOAD * machine.cores:
        warn(f"this machine is busy (load {machine.load:.1f}): mistrust these figures")
    results: list[WorkloadResult] = []
    try:
        _collect(settings, results)
    finally:
        _write(settings, results, machine, args)
        _show(settings, results)
    return _judge(results)


def _collect(settings: Settings, results: list[WorkloadResult]) -> None:
    """Run the suite with a progress bar; what is done when it is interrupted is in `results`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with make_progress(*columns) as progress:
        bar = progress.add_task("comparing batches", total=settings.steps)
        for result in run_suite(
            settings, lambda words: progress.update(bar, advance=1, description=words)
        ):
            results.append(result)
            if result.failure is not None:
                warn(f"{result.workload}: {result.failure.message}")


def _write(
    settings: Settings, results: list[WorkloadResult], machine: Machine, args: argparse.Namespace
) -> None:
    """Write the files; before anything is shown, because stdout may be closed."""
    complete = len(results) == len(settings.workloads)
    if args.json is not None:
        write_json(args.json, to_document(settings, results, machine, complete=complete))
    if args.pytest_benchmark_json is not None:
        write_json(args.pytest_benchmark_json, to_pytest_benchmark(settings, results, machine))


def _show(settings: Settings, results: list[WorkloadResult]) -> None:
    output = make_output()
    output.print(make_table(settings, results))
    output.print(make_footer(settings, results))


def _judge(results: list[WorkloadResult]) -> Exit:
    """Return the worst thing that happened: unequal batches, then raising, then overrunning."""
    kinds = {result.failure.kind for result in results if result.failure is not None}
    if "unequal" in kinds:
        return Exit.BAD
    return Exit.RAISED if kinds else Exit.OK


def _list_workloads() -> None:
    output = make_output()
    width = max(len(workload.name) for workload in WORKLOADS)
    for workload in WORKLOADS:
        output.print(f"{workload.name:<{width}}  {workload.description}", soft_wrap=True)


def _workload(name: str) -> Workload:
    try:
        return find(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
