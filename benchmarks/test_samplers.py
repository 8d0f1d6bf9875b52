"""What does an order of 20,000,000 indices cost: the first index, the whole of it, the memory?

    python benchmarks/test_samplers.py                  # the table in docs/samplers.md
    pytest benchmarks/test_samplers.py --benchmark-only

torch's sampler beside ours in the same run, equal order checked where both give one. As a command,
each sampler runs in fresh processes, in turn with the others, and medians count: the time of the
first index of a new pass, the CPU time of one of two million that follow. Memory is the growth of
the peak of resident memory by the first 100,000 indices, since a peak can't be taken back (with
pytest in ``extra_info``, MiB). ``ShuffleSampler`` gives another order than torch's on purpose.

Caveats: an index is taken by ``next`` or ``deque(..., maxlen=0)`` and nothing is loaded, so this is
the most that a loader could gain. The draw itself (``torch.randperm``) is torch's in both and is
most of what is left of the first index. Padding is a property of the batches, not a time: it is in
``extra_info`` of the throughput of making them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data

import fastload

INDICES = 20_000_000
SAMPLES = 200_000
BATCH_SIZE = 32
BUDGET = 16_384
SIGMAS = 0.5, 0.8, 1.0

SAMPLERS: dict[str, Callable[[int], Iterable[int]]] = {
    "torch RandomSampler": lambda n: torch.utils.data.RandomSampler(range(n)),
    "fastload RandomSampler": lambda n: fastload.RandomSampler(range(n)),
    "torch DistributedSampler": lambda n: torch.utils.data.DistributedSampler(range(n), 8, 0),  # type: ignore[arg-type]
    "fastload DistributedSampler": lambda n: fastload.DistributedSampler(range(n), 8, 0),
    "fastload ShuffleSampler": fastload.ShuffleSampler,
    "fastload BlockShuffleSampler": lambda n: fastload.BlockShuffleSampler(n, block_size=10_000),
    "fastload shard of ShuffleSampler": lambda n: fastload.shard(fastload.ShuffleSampler(n), 0, 8),
}

Figures = dict[str, float]


def measure_pass(name: str) -> Figures:
    """The beginning of a pass over ``INDICES``: seconds, MiB; then CPU nanoseconds an index."""
    make = SAMPLERS[name]
    next(iter(make(1000)))
    before = _peak_mib()
    started = perf_counter()
    indices = iter(make(INDICES))
    next(indices)
    first_s = perf_counter() - started
    deque(islice(indices, 100_000), 0)
    peak_mib = _peak_mib() - before
    count = 2_000_000
    started = process_time()
    deque(islice(indices, count), 0)
    index_ns = 1e9 * (process_time() - started) / count
    check_order(name)
    return {"first_s": first_s, "peak_mib": peak_mib, "index_ns": index_ns}


def measure_billion(position: str) -> Figures:
    """Seconds to the first index of a pass over 10**9, which begins at a position."""
    sampler = fastload.ShuffleSampler(10**9)
    next(sampler.iter_from(1))
    started = perf_counter()
    next(sampler.iter_from(int(position)))
    return {"first_s": perf_counter() - started}


def measure_weighted(name: str, weights: str) -> Figures:
    """CPU seconds of making a sampler and a million draws; nothing if it refuses the weights."""
    module = torch.utils.data if name == "torch" else fastload
    generator = torch.Generator().manual_seed(0)
    given = torch.rand(int(weights), dtype=torch.float64, generator=generator)
    started = process_time()
    try:
        deque(module.WeightedRandomSampler(given, 1_000_000), 0)
    except RuntimeError:
        return {}
    return {"cpu_s": process_time() - started}


def _peak_mib() -> float:
    """The peak of resident memory of this process; Linux only."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def in_fresh_process(what: str, *arguments: str) -> Figures:
    """What one of the functions above returns there."""
    command = [sys.executable, __file__, "--one", what, *arguments]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: Figures = json.loads(ran.stdout)
    return figures


def check_order(name: str, length: int = 100_000) -> None:
    """Ours is torch's order, where torch has such a sampler; otherwise every index once."""
    torch.manual_seed(1)
    ours = list(SAMPLERS[name](length))
    torch.manual_seed(1)
    counterpart = name.replace("fastload", "torch")
    if counterpart in SAMPLERS:
        assert ours == list(SAMPLERS[counterpart](length))
    else:
        assert len(set(ours)) == len(ours)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_first_index(benchmark: Any, name: str) -> None:
    """Time the first ``next`` of a new pass."""
    check_order(name)
    benchmark.group = "the first index of 20,000,000"
    benchmark.extra_info["peak MiB"] = round(in_fresh_process("pass", name)["peak_mib"])
    benchmark.pedantic(lambda: next(iter(SAMPLERS[name](INDICES))), rounds=3)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_whole_pass(benchmark: Any, name: str) -> None:
    """Time two million indices of a pass that has begun."""
    benchmark.group = "2,000,000 indices of a pass that has begun"

    def begun() -> tuple[tuple[Iterable[int], int], dict[str, Any]]:
        indices = iter(SAMPLERS[name](INDICES))
        next(indices)
        return (islice(indices, 2_000_000), 0), {}

    benchmark.pedantic(deque, setup=begun, rounds=3)


@pytest.mark.parametrize("position", [0, 900_000_000])
def test_first_index_of_a_billion(benchmark: Any, position: int) -> None:
    """Time the first index of an epoch of 10**9, and the first after a resume."""
    benchmark.group = "the first index of 1,000,000,000"
    sampler = fastload.ShuffleSampler(10**9)
    benchmark(lambda: next(sampler.iter_from(position)))


def log_normal(sigma: float) -> np.ndarray:
    drawn = np.random.RandomState(0).lognormal(np.log(150), sigma, SAMPLES)
    lengths: np.ndarray = np.maximum(drawn.round().astype(int), 1)
    return lengths


BATCH_SAMPLERS: dict[str, Callable[[np.ndarray], Iterable[list[int]]]] = {
    "torch BatchSampler over RandomSampler": lambda lengths: torch.utils.data.BatchSampler(
        torch.utils.data.RandomSampler(lengths), BATCH_SIZE, drop_last=False
    ),
    "fastload LengthGroupedBatchSampler": lambda lengths: fastload.LengthGroupedBatchSampler(
        lengths, BATCH_SIZE
    ),
    "fastload TokenBudgetBatchSampler": lambda lengths: fastload.TokenBudgetBatchSampler(
        lengths, BUDGET
    ),
}


def padding_percent(lengths: np.ndarray, batches: Iterable[list[int]]) -> float:
    """How much of batches that are padded to their longest sample is padding."""
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return 100 * (1 - int(lengths.sum()) / padded)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("name", list(BATCH_SAMPLERS))
def test_batches_of_log_normal_lengths(benchmark: Any, name: str, sigma: float) -> None:
    """Time an epoch's batches; how much of them is padding is in ``extra_info``."""
    benchmark.group = f"200,000 log-normal lengths, sigma {sigma}"
    lengths = log_normal(sigma)
    batches = list(BATCH_SAMPLERS[name](lengths))
    assert sorted(chain.from_iterable(batches)) == list(range(SAMPLES))
    benchmark.extra_info["padding %"] = round(padding_percent(lengths, batches), 1)
    benchmark.pedantic(lambda: deque(BATCH_SAMPLERS[name](lengths), maxlen=0), rounds=3)


@pytest.mark.parametrize(
    ("name", "weights"), [("torch", 2**24), ("fastload", 2**24), ("fastload", 10**8)]
)
def test_first_weighted_draw(benchmark: Any, name: str, weights: int) -> None:
    """Time making the sampler and its first index; torch refuses more than 2**24 weights."""
    benchmark.group = f"the first of 1,000,000 draws from {weights:,} weights"
    module = torch.utils.data if name == "torch" else fastload
    given = torch.rand(weights, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    benchmark.pedantic(lambda: next(iter(module.WeightedRandomSampler(given, 1_000_000))), rounds=2)


MEASURES: dict[str, Callable[..., Figures]] = {
    "pass": measure_pass,
    "billion": measure_billion,
    "weighted": measure_weighted,
}
PASSES = {
    "`RandomSampler`": ("torch RandomSampler", "fastload RandomSampler"),
    "`DistributedSampler`, one of 8 ranks": (
        "torch DistributedSampler",
        "fastload DistributedSampler",
    ),
    "`ShuffleSampler`": (None, "fastload ShuffleSampler"),
    "`BlockShuffleSampler`": (None, "fastload BlockShuffleSampler"),
    "`shard` of `ShuffleSampler`, one of 8 ranks": (None, "fastload shard of ShuffleSampler"),
}
WEIGHTED = {
    "16,777,216 weights": (("torch", 2**24), ("fastload", 2**24)),
    "10⁸ weights": (("torch", 10**8), ("fastload", 10**8)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Orders of many indices.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs="+", metavar="WHAT")
    options = parser.parse_args()
    if options.one:
        what, *arguments = options.one
        sys.stdout.write(json.dumps(MEASURES[what](*arguments)))
        return
    rows = [*_passes(options.rounds), *_billion(options.rounds), *_weighted(options.rounds)]
    lines = ["| | torch | fastload |", "|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in [*rows, *_padding()]]
    sys.stdout.write("\n".join(lines) + "\n")


Row = tuple[str, ...]


def _passes(rounds: int) -> Iterable[Row]:
    for title, names in PASSES.items():
        sides = [[name] if name else None for name in names]
        cells = [
            ""
            if not each
            else f"{_time(each['first_s'])}, {each['peak_mib']:.0f} MiB, {each['index_ns']:.0f} ns"
            for each in _medians(rounds, "pass", sides)
        ]
        yield (f"20 M indices, {title}: the first, memory, CPU time of each", *cells)


def _billion(rounds: int) -> Iterable[Row]:
    sides = [["0"], ["900000000"]]
    begin, late = (_time(each["first_s"]) for each in _medians(rounds, "billion", sides))
    yield "10⁹ indices, `ShuffleSampler`: the first; at 900 million", "", f"{begin}; {late}"


def _weighted(rounds: int) -> Iterable[Row]:
    for title, given in WEIGHTED.items():
        sides = [[name, str(weights)] for name, weights in given]
        found = _medians(rounds, "weighted", sides)
        cells = [_time(each["cpu_s"]) if each else "refused" for each in found]
        yield (f"{title}, making the sampler and a million draws, CPU time", *cells)


def _padding() -> Iterable[Row]:
    usual, *ours = BATCH_SAMPLERS
    for name in ours:
        cells = [
            " / ".join(f"{percent:.1f}" for percent in _paddings(each)) + " %"
            for each in (usual, name)
        ]
        what = name.removeprefix("fastload ")
        sigmas = " / ".join(map(str, SIGMAS))
        yield (f"padding, log-normal lengths, sigma {sigmas}, `{what}`", *cells)


def _paddings(name: str) -> Iterable[float]:
    torch.manual_seed(0)
    for sigma in SIGMAS:
        lengths = log_normal(sigma)
        yield padding_percent(lengths, BATCH_SAMPLERS[name](lengths))


def _medians(rounds: int, what: str, sides: Sequence[list[str] | None]) -> list[Figures]:
    """Medians of fresh processes that run in turn, one dict for each side, empty for None."""
    runs = [
        [in_fresh_process(what, *side) if side else {} for side in sides] for _ in range(rounds)
    ]
    return [
        {name: statistics.median(each[name] for each in of_side) for name in of_side[0]}
        for of_side in zip(*runs, strict=True)
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1e3 * seconds:.1f} ms"


if __name__ == "__main__":
    main()
