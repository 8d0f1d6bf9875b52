"""What does an order of 20,000,000 indices cost: the first index, the whole of it, the memory?

    pytest benchmarks/test_samplers.py --benchmark-only

torch's sampler beside ours in the same run, equal order checked first where both give one. Memory
is the growth of the peak of resident memory in a fresh process (``extra_info``, MiB), since a peak
can't be taken back. ``ShuffleSampler`` gives another order than torch's on purpose.

Caveats: an index is taken by ``next`` or ``deque(..., maxlen=0)`` and nothing is loaded, so this is
the most that a loader could gain. The draw itself (``torch.randperm``) is torch's in both and is
most of what is left of the first index. Padding is a property of the batches, not a time: it is in
``extra_info`` of the throughput of making them.
"""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain, islice
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

SAMPLERS: dict[str, Callable[[int], Iterable[int]]] = {
    "torch RandomSampler": lambda n: torch.utils.data.RandomSampler(range(n)),
    "fastload RandomSampler": lambda n: fastload.RandomSampler(range(n)),
    "torch DistributedSampler": lambda n: torch.utils.data.DistributedSampler(range(n), 8, 0),
    "fastload DistributedSampler": lambda n: fastload.DistributedSampler(range(n), 8, 0),
    "fastload ShuffleSampler": fastload.ShuffleSampler,
    "fastload BlockShuffleSampler": lambda n: fastload.BlockShuffleSampler(n, block_size=10_000),
    "fastload shard of ShuffleSampler": lambda n: fastload.shard(fastload.ShuffleSampler(n), 0, 8),
}

PEAK = """
import sys
from pathlib import Path
from benchmarks.test_samplers import SAMPLERS, INDICES
make = SAMPLERS[sys.argv[1]]
status = Path("/proc/self/status")
peak = lambda: int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
next(iter(make(1000)))
before = peak()
indices = iter(make(INDICES))
for _ in range(100_000):
    next(indices)
print(peak() - before)
"""


def peak_mib(name: str) -> float:
    """How far the peak of resident memory grows by the first 100,000 indices; Linux only."""
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, name], check=True, capture_output=True, text=True
    )
    return round(float(ran.stdout))


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
    benchmark.extra_info["peak MiB"] = peak_mib(name)
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
    return np.maximum(drawn.round().astype(int), 1)


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


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", list(BATCH_SAMPLERS))
def test_batches_of_log_normal_lengths(benchmark: Any, name: str, sigma: float) -> None:
    """Time an epoch's batches; how much of them is padding is in ``extra_info``."""
    benchmark.group = f"200,000 log-normal lengths, sigma {sigma}"
    lengths = log_normal(sigma)
    batches = list(BATCH_SAMPLERS[name](lengths))
    assert sorted(chain.from_iterable(batches)) == list(range(SAMPLES))
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    benchmark.extra_info["padding %"] = round(100 * (1 - int(lengths.sum()) / padded), 1)
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
