"""What does it bring who loads what, and when? Writes a table of docs/benchmarks.md.

    python benchmarks/scheduling.py                     # measure, then write: under five minutes
    python benchmarks/scheduling.py --only stragglers   # these rows again, the others stay
    python benchmarks/scheduling.py --quick             # one round, prints only: a smoke test
    python benchmarks/scheduling.py --page              # the table again, from the last results

Each load is given to torch's loader and to ours with the options that are meant for it, in turn,
round after round, each in a fresh process in a session of its own, under a time limit. The table
gives medians over the rounds. Checked first: all ways give torch's batches, in its order.

Caveats: what waits (`time.sleep`) takes no core, so two cores are enough for four workers, and such
rows say nothing of loads that compute. An epoch is timed from `iter` to the last batch, with the
start of its workers. Memory is sampled ten times a second (`fastload.tools.bench.tree_memory`).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy.random  # noqa: F401  (torch's workers would import it, each of them)
import torch
from torch.utils.data import Subset

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.publish import BENCHMARKS, put  # noqa: E402
from fastload.tools.bench.catalogue import find  # noqa: E402
from fastload.tools.bench.child import Child, Finished, await_turn  # noqa: E402
from fastload.tools.bench.equality import difference  # noqa: E402
from fastload.tools.bench.loaders import loader_class  # noqa: E402
from fastload.tools.bench.machine import BUSY_LOAD, describe_machine  # noqa: E402
from fastload.tools.bench.workload import Recipe  # noqa: E402
from fastload.tools.bench.workloads.images import PooledImages  # noqa: E402
from fastload.tools.bench.workloads.latency import Requests  # noqa: E402
from fastload.tools.bench.workloads.scheduling import Stragglers  # noqa: E402

RESULTS = ROOT / "benchmarks" / "scheduling.json"
MARKS = "<!-- scheduling -->", "<!-- end of scheduling -->"
ROUNDS = 2
LIMIT_S = 60.0
COMPARED_BATCHES = 6
HURRY = 0.05
"""Of the waiting, how much is left while batches are compared."""

Figures = dict[str, float]
Medians = dict[str, Figures]
"""Of each way, by its name."""


Make = Callable[..., Any]
"""Makes the loader of a way; what it is given replaces the way's options."""


class Way(NamedTuple):
    """A loader, named as for ``fastload bench``, its options, and how many samples it is given."""

    loader: str
    options: dict[str, Any]
    samples: int | None = None


class Line(NamedTuple):
    """A line of the table: one way beside torch's.

    Attributes:
        text: The load, and what is told of it.
        ours: The name of our way.
        torch: The name of torch's.
        value: What is told of a way, given all that was measured.
        form: How it is written.
        goal: "at least" or "at most", and how much; None where none was set.
    """

    text: str
    ours: str
    torch: str
    value: Callable[[Medians, str], float]
    form: str
    goal: tuple[str, float] | None


class Row(NamedTuple):
    """A load, the ways to load it, and the lines that come of it.

    Attributes:
        cook: Makes the data; given is how much of the waiting is left, 1 while measuring.
        ways: Each is measured in each round.
        measure: Measures the loader that it makes by calling what it is given.
        lines: What is told.
        rounds: How often each way is measured.
    """

    cook: Callable[[float], Recipe]
    ways: dict[str, Way]
    measure: Callable[[Make], Figures]
    lines: tuple[Line, ...]
    rounds: int = ROUNDS


def whole_epoch(make: Make) -> Figures:
    """Time to the first batch and to the last one; samples a second over all, and in between."""
    loader = make()
    started = time.perf_counter()
    iterator = iter(loader)
    batch = next(iterator)
    first = latest = time.perf_counter()
    for batch in iterator:  # noqa: B007  (a training loop holds its batch, so does this)
        latest = time.perf_counter()
    samples, epoch_s = len(loader.dataset), latest - started
    steady = (samples - loader.batch_size) / (latest - first)
    return {
        "first_s": first - started,
        "epoch_s": epoch_s,
        "rate": samples / epoch_s,
        "steady_rate": steady,
    }


def some_epochs(make: Make, least_s: float = 1.0) -> Figures:
    """Samples a second, from the first batch of an epoch to its last, over some epochs."""
    loader = make()
    began, rates = time.perf_counter(), []
    while time.perf_counter() - began < least_s:
        rates.append(whole_epoch(lambda: loader)["steady_rate"])
    return {"steady_rate": statistics.harmonic_mean(rates)}


def short_epochs(make: Make, epochs: int = 12, step_s: float = 0.03) -> Figures:
    """Seconds between the batches of an epoch, and from the last one to the next epoch's first."""
    loader = make()
    gaps, usual, last = [], [], None
    for _ in range(epochs):
        arrived = []
        for _batch in loader:
            arrived.append(time.perf_counter())
            time.sleep(step_s)
        if last is not None:  # workers start in the first epoch
            gaps.append(arrived[0] - last)
            usual.append((arrived[-1] - arrived[0]) / (len(arrived) - 1))
        last = arrived[-1]
    return {"gap_s": statistics.median(gaps), "usual_s": statistics.median(usual)}


def first_batches(make: Make, times: int = 7) -> Figures:
    """Seconds to the first batch with new workers, all and one in turn, after a first time."""
    loaders = {"all_s": make(), "one_s": make(num_workers=1)}
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(1 + times):
        for name, loader in loaders.items():
            started = time.perf_counter()
            iterator = iter(loader)
            next(iterator)
            found[name].append(time.perf_counter() - started)
            del iterator
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def with_steps(make: Make, step_s: float = 0.03) -> Figures:
    """An epoch with a step after each batch, so that what is loaded ahead is there at once."""
    started = time.perf_counter()
    for _batch in make():
        time.sleep(step_s)
    return {"epoch_s": time.perf_counter() - started}


def of_way(name: str, figure: str) -> Callable[[Medians, str], float]:
    """A figure as a multiple of that of the way that is named."""
    return lambda found, way: found[way][figure] / found[name][figure]


def speed_of(name: str) -> Callable[[Medians, str], float]:
    """Throughput of whole epochs, as a multiple of that of the way that is named."""
    return lambda found, way: found[name]["epoch_s"] / found[way]["epoch_s"]


def of_ideal(found: Medians, way: str) -> float:
    """How much of what four workers could do at best is reached."""
    return found["none"]["epoch_s"] / 4 / found[way]["epoch_s"]


def _slow(batch_size: int, **options: Any) -> dict[str, Any]:
    return {"batch_size": batch_size, "num_workers": 4, **options}


def _stragglers(text: str, ours: str, torch: str) -> Line:
    what = f"1 % of the samples take 100 ms, the others 1 ms; 4 workers, {text}: share of the ideal"
    return Line(what, ours, torch, of_ideal, "{:.0%}", ("at least", 0.9))


SEED = {"seed": 7}
TOGETHER = {**SEED, "workers_per_batch": 4}
FIRST = {"batch_size": 64, "num_workers": 4}
SHORT = {"batch_size": 32, "num_workers": 2, "persistent_workers": True}
SIXTEEN = {"batch_size": 256, "num_workers": 16}
LARGE = {"batch_size": 32, "num_workers": 4}
DISTANT = {"batch_size": 16, "num_workers": 4}
TOKENS = {"batch_size": 32, "num_workers": 2}

ROWS = {
    "first-batch": Row(
        lambda left: Recipe(Requests(64 * 20, 0.02 * left)),
        {
            "torch": Way("torch", FIRST),
            "whole": Way("fastload", {**FIRST, **SEED}),
            "four": Way("fastload", {**FIRST, **TOGETHER}),
        },
        whole_epoch,
        (
            Line(
                "64 samples of 20 ms a batch, 4 workers, `workers_per_batch=4`: first batch",
                "four",
                "torch",
                lambda found, way: found[way]["first_s"],
                "{:.2f} s",
                ("at most", 0.4),
            ),
            Line(
                "the same: throughput of an epoch of 20 batches, of `workers_per_batch=1`",
                "four",
                "torch",
                speed_of("whole"),
                "{:.2f}",
                ("at least", 0.97),
            ),
        ),
    ),
    "stragglers": Row(
        lambda left: Recipe(Stragglers(64 * 64, 0.001 * left)),
        {
            "none": Way("torch", {"batch_size": 64}),
            "torch-64": Way("torch", _slow(64, prefetch_factor=1)),
            "four": Way("fastload", _slow(64, prefetch_factor=1, **TOGETHER)),
            "auto": Way("fastload", _slow(64, prefetch_factor=1, workers_per_batch="auto", **SEED)),
            "torch-16": Way("torch", _slow(16, prefetch_factor=4)),
            "queue": Way("fastload", _slow(16, prefetch_factor=4, **SEED)),
        },
        whole_epoch,
        (
            _stragglers("4 batches of 64, `workers_per_batch=4`", "four", "torch-64"),
            _stragglers('4 batches of 64, `workers_per_batch="auto"`', "auto", "torch-64"),
            _stragglers("16 batches of 16, `workers_per_batch=1`", "queue", "torch-16"),
        ),
    ),
    "epochs-overlap": Row(
        lambda left: Recipe(Requests(32 * 3, 0.002 * left)),
        {"torch": Way("torch", SHORT), "seed": Way("fastload", {**SHORT, **SEED})},
        short_epochs,
        (
            Line(
                "epochs of 3 batches of 64 ms, 2 workers kept, steps of 30 ms: from an epoch's "
                "last batch to the next one's first, of the usual time between batches",
                "seed",
                "torch",
                lambda found, way: found[way]["gap_s"] / found[way]["usual_s"],
                "{:.2f}",
                ("less than", 2.0),
            ),
        ),
        rounds=3,
    ),
    "sixteen": Row(
        lambda left: find("tiny-tensor").cook(256 * 64),  # noqa: ARG005  (nothing waits)
        {
            "torch": Way("torch", SIXTEEN),
            "plain": Way("fastload", SIXTEEN),
            "seed": Way("fastload", {**SIXTEEN, **SEED}),
        },
        first_batches,
        tuple(
            Line(
                f"16 new workers, cheap samples, {words}: first batch, of that with one worker",
                ours,
                "torch",
                lambda found, way: found[way]["all_s"] / found[way]["one_s"],
                "{:.2f}",
                ("at most", 1.3),
            )
            for ours, words in (("plain", "no seed"), ("seed", "`seed=`"))
        ),
    ),
    "memory": Row(
        lambda left: Recipe(PooledImages(torch.ones(8, 3, 320, 320), 32 * 40)),  # noqa: ARG005
        {
            "torch": Way("torch", LARGE),
            "four": Way("fastload", {**LARGE, **TOGETHER}),
            "torch-1": Way("torch", {**LARGE, "prefetch_factor": 1}),
            "four-1": Way("fastload", {**LARGE, **TOGETHER, "prefetch_factor": 1}),
        },
        with_steps,
        tuple(
            Line(
                f"38 MB a batch, 4 workers, `workers_per_batch=4`{words}: peak memory, of torch's "
                "by default",
                f"four{which}",
                f"torch{which}",
                of_way("torch", "peak_bytes"),
                "{:.2f}",
                ("at most", 0.6),
            )
            for which, words in (("", ""), ("-1", ", `prefetch_factor=1`"))
        ),
    ),
    "latency": Row(
        lambda left: Recipe(Requests(16 * 128, 0.1 * left)),
        {
            "one": Way("torch", {"batch_size": 16}, 16 * 2),
            "torch": Way("torch", DISTANT, 16 * 8),
            "many": Way("fastload", {**DISTANT, "concurrent_samples": 16}),
        },
        whole_epoch,
        tuple(
            Line(
                f"samples of 100 ms, 4 workers, `concurrent_samples=16`: throughput, of {words}",
                "many",
                "torch",
                of_way(other, "rate"),
                "{:.1f}",
                ("at least", goal),
            )
            for other, words, goal in (
                ("one", "one sample at a time without workers", 50.0),
                ("torch", "torch's loader", 12.0),
            )
        ),
    ),
    "threads": Row(
        lambda left: find("tokens").cook(32 * 512),  # noqa: ARG005
        {
            "torch": Way("torch", TOKENS),
            "bare": Way("benchmarks.peers:ThreadPool", TOKENS),
            "processes": Way("fastload", TOKENS),
            "threads": Way("fastload", {**TOKENS, "worker_method": "thread"}),
        },
        some_epochs,
        tuple(
            Line(
                f"`tokens`, 2 workers, {words}: throughput, of a bare pool of the standard "
                "library's threads",
                ours,
                "torch",
                of_way("bare", "steady_rate"),
                "{:.2f}",
                goal,
            )
            for ours, words, goal in (
                ("threads", '`worker_method="thread"`', ("at least", 1.1)),
                ("processes", "processes", None),
            )
        ),
        rounds=3,
    ),
}


class RowError(Exception):
    """A row could not be measured, or its ways give different batches."""


def maker(row: Row, way: Way, left: float = 1.0) -> Make:
    """What makes the loader of a way, from data that are made once."""
    recipe = row.cook(left)
    dataset = recipe.dataset
    if way.samples is not None:
        dataset = Subset(dataset, range(way.samples))
    options = {**recipe.options, **way.options}
    return lambda **changed: loader_class(way.loader)(dataset, **{**options, **changed})


def check(row: Row) -> None:
    """Hold the first batches of each way against those of torch's loader without workers.

    Raises:
        RowError: they differ; the message says where.
    """
    for name, way in row.ways.items():
        alone = Way("torch", {"batch_size": way.options["batch_size"]}, way.samples)
        pairs = zip(maker(row, alone, HURRY)(), maker(row, way, HURRY)(), strict=True)
        for number, (right, other) in enumerate(itertools.islice(pairs, COMPARED_BATCHES)):
            words = difference(right, other, f"batch {number}")
            if words is not None:
                raise RowError(f"{name} does not give torch's batches: {words}")


def measure(name: str, rounds: int | None) -> dict[str, dict[str, list[float]]]:
    """The figures of all ways of a row, each in each round, once their batches are checked.

    Raises:
        RowError: batches differ, a process failed, or it took too long.
    """
    row = ROWS[name]
    found: dict[str, dict[str, list[float]]] = {way: {} for way in row.ways}
    with _process("--check", name) as child:
        _output(f"the comparison of batches of {name}", child.finish(LIMIT_S))
    for _ in range(rounds or row.rounds):
        with contextlib.ExitStack() as stack:
            children = [stack.enter_context(_process("--one", name, way)) for way in row.ways]
            for child in children:
                child.await_ready(LIMIT_S)
            for way, child in zip(row.ways, children, strict=True):
                finished = child.finish(LIMIT_S)
                figures = json.loads(_output(f"{way} of {name}", finished))
                figures["peak_bytes"] = finished.peak_memory_bytes
                for figure, value in figures.items():
                    found[way].setdefault(figure, []).append(value)
    return found


def _process(*arguments: str) -> Child:
    return Child([sys.executable, __file__, *arguments])


def _output(who: str, finished: Finished) -> str:
    if finished.overran:
        raise RowError(f"{who} took more than {LIMIT_S:g} s and was killed")
    if finished.returncode != 0:
        raise RowError(f"{finished.stderr}\n{who} ended with exit code {finished.returncode}")
    return finished.stdout


def make_table(document: dict[str, Any]) -> str:
    """The table of the page, of the rows that were measured."""
    machine = document["machine"]
    lines = [
        (
            f"Python {machine['python']}, torch {machine['torch']}, {machine['cores']} cores "
            f"({machine['processor']}), medians of interleaved runs in fresh processes, equal "
            "batches checked first."
        ),
        "",
        "| load | torch | fastload | goal |",
        "|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        if name in document["rows"]:
            lines += _lines(row, document["rows"][name])
    return "\n".join(lines)


def _lines(row: Row, found: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    medians = {
        way: {figure: statistics.median(values) for figure, values in figures.items()}
        for way, figures in found.items()
    }
    for line in row.lines:
        theirs, ours = (line.value(medians, way) for way in (line.torch, line.ours))
        cells = (line.form.format(theirs), line.form.format(ours), _goal(line, ours))
        yield f"| {' | '.join((line.text, *cells))} |"


def _goal(line: Line, ours: float) -> str:
    if line.goal is None:
        return "none set"
    how, limit = line.goal
    is_met = {"at least": ours >= limit, "at most": ours <= limit, "less than": ours < limit}[how]
    return f"{how} {line.form.format(limit)}" + ("" if is_met else " (missed)")


def _rows_to_keep(machine: dict[str, Any]) -> dict[str, Any]:
    """The last results, if they are of the same machine and versions."""
    if not RESULTS.exists():
        return {}
    document = json.loads(RESULTS.read_text())
    same = ("processor", "cores", "python", "torch")
    rows: dict[str, Any] = document["rows"]
    return rows if all(document["machine"][key] == machine[key] for key in same) else {}


def save(document: dict[str, Any]) -> None:
    """Write results and table; rows that were not measured now stay."""
    rows = {**_rows_to_keep(document["machine"]), **document["rows"]}
    document = {**document, "rows": rows}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    put(BENCHMARKS, make_table(document), *MARKS)


def run(
    names: Sequence[str],
    rounds: int | None,
    on_row: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[str]:
    """Measure rows, and call `on_row` with all results so far; return what failed, in words."""
    machine = describe_machine()
    if machine.load > BUSY_LOAD * machine.cores:
        print(f"this machine is busy (load {machine.load:.1f}): mistrust these figures")
    document: dict[str, Any] = {"machine": asdict(machine), "rows": {}}
    failures = []
    for name in names:
        try:
            document["rows"][name] = measure(name, rounds)
        except RowError as error:
            failures.append(f"{name}: {error}")
        else:
            print("\n".join(_lines(ROWS[name], document["rows"][name])), flush=True)
            on_row(document)
    return failures


def main() -> None:
    """Measure all rows, or those that are named; write results and table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="one round, prints only")
    parser.add_argument("--page", action="store_true", help="write the table only")
    parser.add_argument("--check", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, metavar=("ROW", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check:
        await_turn()
        check(ROWS[args.check])
    elif args.one:
        row = ROWS[args.one[0]]
        make = maker(row, row.ways[args.one[1]])
        await_turn()
        print(json.dumps(row.measure(make)), flush=True)
    elif args.page:
        put(BENCHMARKS, make_table(json.loads(RESULTS.read_text())), *MARKS)
    else:
        names = args.only or list(ROWS)
        failures = run(names, 1) if args.quick else run(names, None, save)
        if failures:
            sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
