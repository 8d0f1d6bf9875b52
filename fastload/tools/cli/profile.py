"""`fastload profile`: does the training loop wait for data, for which part, and what helps."""

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from fastload.tools.cli.console import (
    file_errors,
    make_output,
    make_progress,
    result_file,
    warn,
    write_json,
)
from fastload.tools.cli.exits import Exit, lacking

_BUDGET_S = 20.0
_LEAST_BUDGET_S = 1.0


def add_parser(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "profile",
        help="find out what a loader waits for, and what to change",
        description="Run a loader at a few settings, predict every other one by replay, run the "
        "best for real. Works on fastload's and on torch's DataLoader.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="module:attr or file.py:attr: a loader, a dataset, or a function without arguments "
        "that returns one",
    )
    step = parser.add_mutually_exclusive_group()
    step.add_argument(
        "--step-ms",
        type=_milliseconds,
        metavar="MS",
        help="the training step takes this long and no CPU, as on an accelerator",
    )
    step.add_argument(
        "--train",
        metavar="TARGET",
        help="module:attr or file.py:attr: the training step, a function of a batch, or a "
        "function without arguments that returns one",
    )
    parser.add_argument(
        "--budget",
        type=_seconds,
        default=_BUDGET_S,
        metavar="SECONDS",
        help=f"time for all runs, workers' start not counted (default {_BUDGET_S:g})",
    )
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write the profile")
    parser.add_argument("--html", type=result_file, metavar="FILE", help="write it with pictures")
    parser.add_argument(
        "--png", type=result_file, metavar="FILE", help="write the pictures alone, by matplotlib"
    )
    parser.add_argument(
        "--trace", type=result_file, metavar="FILE", help="write a timeline for Perfetto"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Profile, show the screen, write the files."""
    from fastload.tools.profile.profiler import Plan, profile
    from fastload.tools.profile.screen import make_screen
    from fastload.tools.profile.target import TargetError, find_loader

    if args.png is not None and importlib.util.find_spec("matplotlib") is None:
        raise lacking(["matplotlib"], "plot")
    try:
        step, step_words = _step(args)
        loader = find_loader(args.target)
    except TargetError as error:
        warn(f"fastload profile: {error}")
        return Exit.USAGE
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with make_progress(*columns) as progress:
        line = progress.add_task("", total=None)
        plan = Plan(
            loader,
            args.target,
            step,
            step_words,
            args.budget,
            lambda description: progress.update(line, description=description),
        )
        found = profile(plan)
    _write(args, found)  # before anything is shown, because stdout may be closed
    make_output().print(make_screen(found))
    return Exit.OK


def _write(args: argparse.Namespace, found: Any) -> None:
    from fastload.tools.profile.trace import to_trace

    if args.json is not None:
        write_json(args.json, found.to_dict())
    if args.trace is not None:
        write_json(args.trace, to_trace(found))
    if args.html is not None:
        from fastload.tools.profile.html import render

        # Names that the locale could not decode are written as the bytes they came as.
        with file_errors(args.html):
            args.html.write_text(render(found), encoding="utf-8", errors="surrogateescape")
    if args.png is not None:
        from fastload.tools.profile.plots import save

        with file_errors(args.png):
            save(found, args.png)


def _step(args: argparse.Namespace) -> tuple[Callable[[Any], Any] | None, str]:
    from fastload.tools.profile.target import find_step

    if args.train is not None:
        return find_step(args.train), args.train
    if args.step_ms is not None:
        seconds = args.step_ms / 1e3
        return lambda _batch: time.sleep(seconds), f"{args.step_ms:g} ms without CPU"
    return None, "none: batches are dropped"


def _milliseconds(text: str) -> float:
    return _number(text, 0.0, "milliseconds")


def _seconds(text: str) -> float:
    return _number(text, _LEAST_BUDGET_S, "seconds")


def _number(text: str, least: float, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {unit}, {least:g} or more")
    return value
