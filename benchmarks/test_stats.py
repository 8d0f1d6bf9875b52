"""What do the stamps cost, as a share of a batch's time?

    pytest benchmarks/test_stats.py --benchmark-only -s

Two questions: what one batch's stamps cost in the worker, and what its row costs in the consumer,
each in a loop by itself; and what a batch of 256 rows of 16 numbers takes through the whole loader
(the smallest workload of `fastload bench`), of which the sum should stay below one percent.
Caveat: a loop by itself has warm caches; between other work the same calls cost up to twice that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastload
from fastload._loading.stopwatch import Watch
from fastload._wire.messages import Loaded, Stamps, decode, encode
from fastload.stats.counters import Counters

BATCH, BATCHES, CALLS = 256, 400, 20_000


class TinyRows(torch.utils.data.Dataset[Any]):
    """16 numbers and a label."""

    def __init__(self) -> None:
        self._rows = np.zeros((BATCH, 16), np.float32)

    def __len__(self) -> int:
        return BATCH * BATCHES

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._rows[index % BATCH], 0


def _stamp_in_worker() -> Stamps:
    watch = Watch()
    started_ns, started_cpu_ns = time.monotonic_ns(), time.thread_time_ns()
    watch.start(None)
    watch.fetched()
    collated_ns = time.monotonic_ns()
    watch.note(BATCH, watch.fetched_ns - started_ns)
    written_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns() - started_cpu_ns
    fetch_cpu_ns = watch.fetch_cpu_ns - started_cpu_ns
    moments = started_ns, watch.fetched_ns, collated_ns, written_ns
    return (BATCH, *moments, fetch_cpu_ns, cpu_ns, watch.slowest, watch.slowest_ns, 0)


def _row_in_consumer() -> Callable[[], int]:
    counters, report = Counters(), Loaded(0, 0, 0, 4096, _stamp_in_worker(), None, None, None)
    now = time.monotonic_ns

    def record() -> int:
        asked_ns, got_ns, requested_ns = now(), now(), now()
        return counters.delivered(report, 0, asked_ns, got_ns, requested_ns)

    return record


def _transport() -> Callable[[], Any]:
    report = Loaded(0, 0, 0, 4096, _stamp_in_worker(), None, None, None)
    return lambda: decode(encode(report))


def _transport_without() -> Callable[[], Any]:
    report = Loaded(0, 0, 0, 4096, (), None, None, None)  # type: ignore[arg-type]  # on purpose
    return lambda: decode(encode(report))


def _mean_s(call: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, (time.perf_counter() - started) / CALLS)
    return best


def _batch_s(workers: int) -> float:
    loader = fastload.DataLoader(TinyRows(), batch_size=BATCH, num_workers=workers)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        for _batch in loader:
            pass
        times.append((time.perf_counter() - started) / BATCHES)
    return min(times)


@pytest.mark.parametrize("workers", [1, 2])
def test_share_of_a_batch(benchmark: Any, workers: int) -> None:
    """Print the stamps' share of the time that the smallest batch takes."""
    stamp_s, row_s = _mean_s(_stamp_in_worker), _mean_s(_row_in_consumer())
    travel_s = _mean_s(_transport()) - _mean_s(_transport_without())
    batch_s = benchmark.pedantic(_batch_s, (workers,), rounds=1)
    cost_s = stamp_s + row_s + travel_s
    print(
        f"\n{workers} workers: worker {stamp_s * 1e6:.2f} + travel {travel_s * 1e6:.2f} + consumer "
        f"{row_s * 1e6:.2f} = {cost_s * 1e6:.2f} us of CPU for a batch every {batch_s * 1e6:.0f} us"
        f" = {cost_s / batch_s / (workers + 1):.2%} of {workers + 1} processes"
    )
