"""Where each batch's time went.

Runs in: consumer.
Takes: the stamps that come with each batch and the consumer's own waiting.
Gives: a frozen snapshot at any time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fastload.messages import Loaded

MOST_SKIPPED_NAMED = 1000


@dataclass(frozen=True)
class SkippedSample:
    """A sample that could not be loaded: its index, or position in a stream, and the error."""

    index: Any
    error: str


@dataclass(frozen=True)
class Stats:
    """Totals of one epoch so far, in seconds, bytes and batches.

    Attributes:
        batches: Batches delivered.
        samples: Samples in them; a stream's last batch counts as a full one.
        elapsed_s: Since the epoch began, up to the last delivery.
        wait_s: Time the training loop waited for a batch.
        fetch_s: Time workers spent in the dataset and in collate, added up over workers.
        write_s: Time workers spent copying into shared memory, added up over workers.
        worker_cpu_s: CPU time of workers, added up.
        shared_bytes: Bytes that crossed in shared memory.
        errors: Samples that could not be loaded and were left out or replaced (``on_error``).
        skipped: The first thousand of them.
        worker_restarts: Workers that died and were started again.
    """

    batches: int
    samples: int
    elapsed_s: float
    wait_s: float
    fetch_s: float
    write_s: float
    worker_cpu_s: float
    shared_bytes: int
    errors: int = 0
    skipped: tuple[SkippedSample, ...] = ()
    worker_restarts: int = 0

    @property
    def stall_share(self) -> float:
        """Part of the time that the training loop spent waiting, from 0 to 1."""
        return self.wait_s / self.elapsed_s if self.elapsed_s else 0.0


_recorded: list[Counters] | None = None


@contextlib.contextmanager
def recording() -> Iterator[list[Counters]]:
    """Collect the counters of every epoch that any loader begins in this process."""
    global _recorded  # noqa: PLW0603
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


class Counters:
    """What is counted while batches pass; one iterator's own."""

    def __init__(self) -> None:
        self._started_ns = self._latest_ns = time.monotonic_ns()
        self._batches = 0
        self._samples = 0
        self._wait_ns = 0
        self._fetch_ns = 0
        self._write_ns = 0
        self._cpu_ns = 0
        self._shared_bytes = 0
        self._errors = 0
        self._skipped: list[SkippedSample] = []
        self._restarts = 0
        if _recorded is not None:
            _recorded.append(self)

    def waited(self, elapsed_ns: int) -> None:
        """The training loop has waited for a batch."""
        self._wait_ns += elapsed_ns

    def delivered(self, report: Loaded) -> None:
        """A batch goes to the training loop."""
        self._batches += 1
        self._samples += report.stamps.samples
        self._fetch_ns += report.stamps.fetch_ns
        self._write_ns += report.stamps.write_ns
        self._cpu_ns += report.stamps.cpu_ns
        self._shared_bytes += report.used_bytes
        self._latest_ns = time.monotonic_ns()

    def loaded_inline(self, samples: int, fetch_ns: int) -> None:
        """A batch was loaded by the training loop itself, which waited for it."""
        self._batches += 1
        self._samples += samples
        self._wait_ns += fetch_ns
        self._fetch_ns += fetch_ns
        self._latest_ns = time.monotonic_ns()

    def restarted(self) -> None:
        """A worker had died and was started again."""
        self._restarts += 1

    def skipped(self, samples: Iterable[SkippedSample]) -> int:
        """Samples could not be loaded; returns how many in all."""
        for sample in samples:
            self._errors += 1
            if self._errors <= MOST_SKIPPED_NAMED:
                self._skipped.append(sample)
        return self._errors

    def snapshot(self) -> Stats:
        """The totals so far."""
        return Stats(
            batches=self._batches,
            samples=self._samples,
            elapsed_s=(self._latest_ns - self._started_ns) / 1e9,
            wait_s=self._wait_ns / 1e9,
            fetch_s=self._fetch_ns / 1e9,
            write_s=self._write_ns / 1e9,
            worker_cpu_s=self._cpu_ns / 1e9,
            shared_bytes=self._shared_bytes,
            errors=self._errors,
            skipped=tuple(self._skipped),
            worker_restarts=self._restarts,
        )
