"""What does `seed=` cost a sample? Writes a table of docs/reproducibility.md.

    python benchmarks/test_seed.py              # measure, then write: about four minutes
    python benchmarks/test_seed.py --quick      # one short round, prints only: a smoke test

The same dataset is loaded by torch's loader, by ours without a seed, and by ours with one, in turn,
round after round, each in a fresh process with nothing beside it. The cost is that of ours with a
seed over ours without, in the same round; the table gives medians over the rounds, and the spread
from the smallest to the largest. Checked first: with a seed, two workers give the batches that none
give.

Caveats: wall time, of a loop that does nothing with a batch. Where a dataset draws, the first batch
of each epoch's workers is loaded twice, which is in the figure. Shuffled orders are made in other
ways, with a seed by `ShuffleSampler`'s permutation; a case in order stands beside.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.data
from torch.utils.data import Dataset

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import fastload  # noqa: E402
from benchmarks.publish import put  # noqa: E402
from fastload.tools.bench.catalogue import find  # noqa: E402
from fastload.tools.bench.equality import difference  # noqa: E402

PAGE, MARKS = ROOT / "docs" / "reproducibility.md", ("<!-- cost -->", "<!-- end of cost -->")
RESULTS = ROOT / "benchmarks" / "seed_cost.json"
LOADERS = ("torch", "fastload", "seeded")
ROUNDS = 7
FULL_S, QUICK_S = 2.0, 0.2


class Drawing(Dataset[Any]):
    """Sixteen numbers, made of one draw of each generator that is named."""

    def __init__(self, *kinds: str) -> None:
        self._rows = torch.zeros(64, 16)
        self._kinds = kinds

    def __len__(self) -> int:
        return 200_000

    def __getitem__(self, index: int) -> torch.Tensor:
        row = self._rows[index % 64]
        if "torch" in self._kinds:
            row = row + torch.rand(16)
        if "numpy" in self._kinds:
            row = row + np.random.random()
        if "python" in self._kinds:
            row = row + random.random()
        return row


class Case(NamedTuple):
    """A question: a dataset, the loader's options, and the goal in words."""

    words: str
    goal: str
    dataset: Callable[[], Any]
    options: dict[str, Any]


def _of(workload: str, samples: int) -> Callable[[], Any]:
    return lambda: find(workload).cook(samples).dataset


CASES = {
    "none": Case(
        "no draws, `tiny-numpy`, 2 workers",
        "under 3 %",
        _of("tiny-numpy", 256 * 1_000),
        {"batch_size": 256, "num_workers": 2},
    ),
    "none-inline": Case(
        "no draws, `tiny-numpy`, no workers",
        "under 3 %",
        _of("tiny-numpy", 256 * 1_000),
        {"batch_size": 256},
    ),
    "torch": Case(
        "one draw from torch's generator, no workers",
        "at most 3 µs",
        lambda: Drawing("torch"),
        {"batch_size": 256},
    ),
    "all": Case(
        "one draw from each of the three global generators, no workers",
        "none set",
        lambda: Drawing("torch", "numpy", "python"),
        {"batch_size": 256},
    ),
    "gathered": Case(
        "gathered batches of a `TensorDataset`, in order",
        "nothing",
        _of("table-inline", 256_000),
        {"batch_size": 256},
    ),
    "gathered-shuffled": Case(
        "gathered batches of a `TensorDataset`, shuffled",
        "nothing",
        _of("table-inline", 256_000),
        {"batch_size": 256, "shuffle": True},
    ),
}


def make_loader(case: Case, loader: str) -> Any:
    """The loader of a case by its name."""
    if loader == "torch":
        return torch.utils.data.DataLoader(case.dataset(), **case.options)
    seed: dict[str, Any] = {"seed": 7} if loader == "seeded" else {}
    return fastload.DataLoader(case.dataset(), **case.options, **seed)


def measure(case: Case, loader_name: str, least_s: float) -> float:
    """Microseconds a sample, from the first batch of an epoch to its last, over some epochs."""
    torch.set_num_threads(1)
    loader = make_loader(case, loader_name)
    size, counted_s, samples = case.options["batch_size"], 0.0, 0
    while counted_s < least_s:
        iterator = iter(loader)
        next(iterator)
        started = latest = time.perf_counter()
        batches = 0
        for _ in iterator:
            latest = time.perf_counter()
            batches += 1
            if counted_s + latest - started > least_s:
                break
        counted_s += latest - started
        samples += batches * size
        del iterator
    return counted_s / samples * 1e6


def check(case: Case) -> None:
    """With a seed, the first batches are the same with workers and without."""
    alone, shared = (
        fastload.DataLoader(case.dataset(), **{**case.options, "num_workers": number}, seed=7)
        for number in (0, 2)
    )
    for number, (right, other) in enumerate(zip(alone, shared, strict=True)):
        words = difference(right, other, f"batch {number}")
        if words is not None:
            raise SystemExit(f"{case.words}: {words}")
        if number == 10:
            break
    shared.close()


def _in_fresh_process(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return done.stdout


def run(rounds: int, *, quick: bool) -> dict[str, dict[str, list[float]]]:
    """Microseconds a sample of each case, of each loader, in each round."""
    found: dict[str, dict[str, list[float]]] = {
        name: {loader: [] for loader in LOADERS} for name in CASES
    }
    for name in CASES:
        _in_fresh_process("--check", name)
    for _ in range(rounds):
        for name, times in found.items():
            for loader in LOADERS:
                options = ("--quick",) if quick else ()
                times[loader].append(float(_in_fresh_process("--one", name, loader, *options)))
    return found


def make_table(found: dict[str, dict[str, list[float]]], rounds: int) -> str:
    """The table of the page."""
    lines = [
        (
            f"Python {sys.version.split()[0]}, torch {torch.__version__}, µs a sample, medians of "
            f"{rounds} rounds in fresh processes; in brackets the smallest and the largest."
        ),
        "",
        "| | torch | fastload | fastload, `seed=` | cost of the seed | goal |",
        "|---|---|---|---|---|---|",
    ]
    for name, times in found.items():
        case = CASES[name]
        pairs = list(zip(times["fastload"], times["seeded"], strict=True))
        costs = sorted(seeded - plain for plain, seeded in pairs)
        percent = statistics.median(100 * (seeded / plain - 1) for plain, seeded in pairs)
        middle = statistics.median(costs)
        medians = " | ".join(f"{statistics.median(times[loader]):.3f}" for loader in LOADERS)
        cost = f"{middle:+.3f} µs ({costs[0]:+.3f} to {costs[-1]:+.3f}), {percent:+.1f} %"
        lines.append(f"| {case.words} | {medians} | {cost} | {case.goal} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all, or what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", metavar="CASE", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "LOADER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check:
        check(CASES[args.check])
    elif args.one:
        print(measure(CASES[args.one[0]], args.one[1], QUICK_S if args.quick else FULL_S))
    else:
        rounds = 1 if args.quick else ROUNDS
        found = run(rounds, quick=args.quick)
        table = make_table(found, rounds)
        print(table)
        if not args.quick:
            RESULTS.write_text(json.dumps(found, indent=2) + "\n")
            put(PAGE, table, *MARKS)


if __name__ == "__main__":
    main()
