"""Count and time the batches of one epoch while they pass.

Runs in: consumer.
Takes: the stamps that come with each batch, and the consumer's own waiting.
Gives: a frozen ``Stats`` at any time.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastload._wire.messages import Loaded
from fastload.stats import recording
from fastload.stats.recording import Recording
from fastload.stats.rows import STAGES, Array, StampRows, columns, durations
from fastload.stats.snapshot import (
    MOST_SKIPPED_NAMED,
    SkippedSample,
    SlowSample,
    Stages,
    Stats,
    Timing,
    WorkerStats,
)

MOST_SLOWEST = 10
"""Number of slow samples that are remembered."""


class Counters:
    """Counts the batches of one iterator while they pass."""

    def __init__(self) -> None:
        self.describe_choice: Callable[[], str] = str
        self._started_ns = self._latest_ns = time.monotonic_ns()
        self._failed_ns = 0
        self._rows = StampRows()
        self._slowest: list[tuple[int, str]] = []
        self._errors = 0
        self._skipped: list[SkippedSample] = []
        self._restarts = 0

    def failed(self, elapsed_ns: int) -> None:
        """Note that the training loop waited this long and got an exception."""
        self._failed_ns += elapsed_ns

    def delivered(
        self, report: Loaded, worker_id: int, asked_ns: int, got_ns: int, requested_ns: int
    ) -> int:
        """Note that a batch goes to the training loop; return the number of its row."""
        samples, started, fetched, collated, written, fetch_cpu, cpu, slowest, slowest_ns, peak = (
            report.stamps
        )
        if slowest:
            self._note_slow(slowest_ns, slowest)
        self._latest_ns = left_ns = time.monotonic_ns()
        # fmt: off
        return self._rows.add((
            worker_id, samples, report.used_bytes, peak, started, fetched, collated, written,
            fetch_cpu, cpu, asked_ns, got_ns, left_ns, requested_ns - got_ns, 0,
        ))
        # fmt: on

    def pinned(self, number: int, elapsed_ns: int) -> None:
        """Note how long copying the batch of a row into page-locked memory took."""
        self._latest_ns += elapsed_ns
        self._rows.pinned(number, elapsed_ns)

    def loaded_inline(
        self, watch: Any, samples: int, asked_ns: int, drawn: tuple[int, int], pin_ns: int
    ) -> None:
        """Note a batch that the training loop loaded itself; ``drawn`` is when it had its indices.

        ``drawn`` has two members: the moment, and the thread's CPU time at it.
        """
        if watch.slowest:
            self._note_slow(watch.slowest_ns, watch.slowest)
        self._latest_ns = left_ns = time.monotonic_ns()
        collated_ns = left_ns - pin_ns
        drawn_ns, drawn_cpu_ns = drawn
        fetch_cpu_ns = watch.fetch_cpu_ns - drawn_cpu_ns
        cpu_ns = fetch_cpu_ns + collated_ns - watch.fetched_ns  # collate hardly ever waits
        self._rows.add(
            (
                *(-1, samples, 0, 0, drawn_ns, watch.fetched_ns, collated_ns, collated_ns),
                *(fetch_cpu_ns, cpu_ns, asked_ns, asked_ns, left_ns, drawn_ns - asked_ns, pin_ns),
            )
        )

    @property
    def delivered_batches(self) -> int:
        """Number of batches that were delivered so far."""
        return self._rows.count

    @property
    def latest_ns(self) -> int:
        """When the newest batch was delivered, or the epoch began, in nanoseconds."""
        return self._latest_ns

    def rows(self) -> Array:
        """The newest rows ``(batches, fields)``; see ``fastload.stats.rows.Row`` for the fields."""
        return self._rows.newest()

    def restarted(self) -> None:
        """Note that a worker died and was started again."""
        self._restarts += 1

    def skipped(self, samples: Iterable[SkippedSample]) -> int:
        """Note samples that could not be loaded; return how many there were in this epoch."""
        for sample in samples:
            self._errors += 1
            if self._errors <= MOST_SKIPPED_NAMED:
                self._skipped.append(sample)
        return self._errors

    def snapshot(self) -> Stats:
        """Summarise the epoch so far; takes about a millisecond."""
        rows, workers = self._rows.newest(), self._rows.sums_by_worker()
        total = {
            name: sum(sums[name] for sums in workers.values())
            for name in (*STAGES, "batches", "samples", "shared_bytes", "cpu")
        }
        elapsed_ns = self._latest_ns - self._started_ns
        total["wait"] += self._failed_ns
        return Stats(
            batches=total["batches"],
            samples=total["samples"],
            elapsed_s=elapsed_ns / 1e9,
            wait_s=total["wait"] / 1e9,
            busy_s=total["busy"] / 1e9,
            fetch_s=total["fetch"] / 1e9,
            collate_s=total["collate"] / 1e9,
            write_s=total["write"] / 1e9,
            worker_cpu_s=total["cpu"] / 1e9,
            shared_bytes=total["shared_bytes"],
            largest_batch_bytes=int(columns(rows)["shared_bytes"].max(initial=0)),
            ready_batches=ready_batches(rows),
            stages=_stages(rows, total),
            workers=tuple(_worker(number, workers[number]) for number in sorted(workers)),
            slowest=tuple(
                SlowSample(index, elapsed_ns / 1e9)
                for elapsed_ns, index in sorted(self._slowest, reverse=True)
            ),
            choice=self.describe_choice(),
            errors=self._errors,
            skipped=tuple(self._skipped),
            worker_restarts=self._restarts,
        )

    def _note_slow(self, elapsed_ns: int, index: str) -> None:
        if len(self._slowest) < MOST_SLOWEST:
            heapq.heappush(self._slowest, (elapsed_ns, index))
        elif elapsed_ns > self._slowest[0][0]:
            heapq.heapreplace(self._slowest, (elapsed_ns, index))


class _RecordedCounters(Counters):
    """Gives its sums to a recording when the epoch's iterator is gone."""

    def __init__(self, recorder: Recording) -> None:
        super().__init__()
        self._recorder = recorder
        recorder.begin(self)

    def __del__(self) -> None:
        self._recorder.end(self)


def new_counters() -> Counters:
    """Counters of an epoch that begins, and that joins a recording if there is one."""
    recorder = recording.current()
    return Counters() if recorder is None else _RecordedCounters(recorder)


def _stages(rows: Array, total: dict[str, int]) -> Stages:
    if not len(rows):
        return Stages()
    batches = total["batches"]
    took = durations(rows)
    took["busy"] = took["busy"][:-1] if len(rows) > 1 else took["busy"]
    return Stages(
        **{
            stage: Timing(
                total[stage] / 1e9,
                total[stage] / batches / 1e9,
                *(np.quantile(took[stage], (0.5, 0.95, 0.99)) / 1e9).tolist(),
            )
            for stage in STAGES
        }
    )


def _worker(number: int, sums: dict[str, int]) -> WorkerStats:
    return WorkerStats(
        number,
        sums["batches"],
        sums["samples"],
        (sums["fetch"] + sums["collate"] + sums["write"]) / 1e9,
        sums["cpu"] / 1e9,
        sums["peak_bytes"],
    )


def ready_batches(rows: Array) -> float:
    """Mean number of batches that were ready when the training loop asked for one."""
    of = columns(rows)
    if not len(rows) or of["worker"][-1] < 0:
        return 0.0
    written = np.searchsorted(np.sort(of["written"]), of["asked"], side="right")
    return float(np.maximum(0, written - np.arange(len(rows))).mean())
