"""Run a loader for a while at one setting, and keep the stamps of each batch.

Runs in: consumer.
Takes: a loader of either kind, a setting, a step that stands for the consumer.
Gives: a ``Trial``: rows of stamps (``fastload.rows``), whatever the loader.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from fastload.profile.clocked import clocked
from fastload.profile.rebuild import many_workers_allowed, rebuild
from fastload.profile.report import Setting
from fastload.rows import Array, Row, columns, durations

Step = Callable[[Any], Any]

LEAST_BATCHES = 12
"""A trial goes on past its time until it has this many, or twice its time has passed."""

MOST_SLOWEST = 20


@dataclass(frozen=True)
class Trial:
    """What was seen at one setting.

    Attributes:
        setting: At which.
        epochs: Rows of each epoch, in the order of delivery: ``(batches, fields)``.
        elapsed_s: From the first batch that counts to the last.
        consumer_cpu_s: CPU time of this process in that.
        worker_bytes: Memory that is one worker's alone, the largest.
        read_bytes: Bytes that all workers read from storage.
        core_wait_s: How long all workers together waited for a core.
        slowest: Nanoseconds and index of the slowest samples, the slowest first.
        startup_s: From ``iter`` to the first batch.
        is_whole: Whether an epoch was over before the time was.
    """

    setting: Setting
    epochs: tuple[Array, ...]
    elapsed_s: float
    consumer_cpu_s: float
    worker_bytes: int
    read_bytes: int
    core_wait_s: float
    slowest: tuple[tuple[int, str], ...]
    startup_s: float
    is_whole: bool

    @property
    def rows(self) -> Array:
        """All rows that count: those after each epoch's start."""
        return np.concatenate([self.steady(rows) for rows in self.epochs])

    def steady(self, rows: Array) -> Array:
        """Rows after the workers have filled the queue, if enough are left."""
        setting = self.setting
        skipped = max(2, setting.num_workers * setting.prefetch_factor)
        return rows[skipped:] if len(rows) >= 2 * skipped + 4 else rows[len(rows) // 3 :]

    def mean_s(self, station: str) -> float:
        """What a batch takes there on average."""
        return float(self.took(station).mean())

    def took(self, station: str) -> Any:
        """Seconds of each batch at one station."""
        parts = [durations(self.steady(rows))[station] for rows in self.epochs]
        if station == "busy":
            parts = [part[:-1] for part in parts]
        return np.concatenate(parts) / 1e9

    @property
    def samples_per_s(self) -> float:
        """Samples per second inside epochs, once the queue is full."""
        samples, elapsed_ns = 0, 0
        for rows in self.epochs:
            of = columns(self.steady(rows))
            if len(of["left"]) > 1:
                samples += int(of["samples"][1:].sum())
                elapsed_ns += int(of["left"][-1] - of["left"][0])
        if not elapsed_ns:  # epochs of one batch: count what is between them too
            samples = sum(int(columns(rows)["samples"].sum()) for rows in self.epochs)
            elapsed_ns = round(self.elapsed_s * 1e9)
        return samples / (elapsed_ns / 1e9) if elapsed_ns else 0.0

    @property
    def core_wait_per_batch_s(self) -> float:
        """How long a worker waited for a core, a batch."""
        return self.core_wait_s / sum(map(len, self.epochs))

    @property
    def period_s(self) -> float:
        """From one batch to the next, inside epochs."""
        rate = self.samples_per_s
        return self.samples_per_batch / rate if rate else 0.0

    @property
    def samples_per_batch(self) -> float:
        """On average."""
        return float(columns(self.rows)["samples"].mean())

    @property
    def stall_share(self) -> float:
        """Part of the time inside epochs that the consumer spent in ``next``, queue full."""
        wait, busy = self.took("wait").sum(), self.took("busy").sum()
        return float(wait / (wait + busy)) if wait + busy else 0.0


def run_trial(
    loader: Any,
    setting: Setting,
    kind: str,
    step: Step,
    seconds: float,
    keep: Callable[[Any], None] = lambda _: None,
    **changes: Any,
) -> Trial:
    """Load for about ``seconds``; epochs that end before are begun anew.

    Args:
        loader: what is profiled; it is left alone.
        setting: workers and prefetch factor.
        kind: "fastload" or "torch": with whose class.
        step: is called with each batch.
        seconds: how long.
        keep: is called with each batch too, outside of the times that are taken.
        changes: further arguments of the loader.
    """
    source = _OfFastload() if kind == "fastload" else _OfTorch()
    trial = rebuild(loader, setting, kind, **source.options(loader), **changes)
    runner = _Runner(source, step, keep, seconds)
    with many_workers_allowed(), _closing(trial):
        while runner.goes_on():
            if not runner.run_epoch(trial):
                break
        seen = _look_at_workers()
        runner.end()
    source.drop()
    if not runner.epochs:
        raise ValueError("the loader gave no batch: its dataset or sampler is empty")
    return Trial(
        setting,
        tuple(runner.epochs),
        runner.elapsed_s,
        runner.cpu_s,
        seen.largest_bytes,
        seen.read_bytes,
        seen.core_wait_s,
        tuple(sorted(source.slowest, reverse=True)[:MOST_SLOWEST]),
        runner.startup_s,
        runner.is_whole,
    )


class _OfFastload:
    """Our loader stamps each batch by itself."""

    def __init__(self) -> None:
        self.slowest: list[tuple[int, str]] = []
        self._iterator: Any = None

    def options(self, loader: Any) -> dict[str, Any]:  # noqa: ARG002  (the other source needs it)
        return {}

    def begin(self, loader: Any) -> Iterator[Any]:
        self._iterator = iter(loader)
        return self._iterator  # type: ignore[no-any-return]  # an iterator of batches

    def end(self) -> Array:
        counters = self._iterator._counters
        self.slowest += [
            (round(each.elapsed_s * 1e9), each.index) for each in counters.snapshot().slowest
        ]
        rows: Array = counters.rows()
        return rows

    def drop(self) -> None:
        self._iterator = None


class _OfTorch:
    """Torch's loader has clocks around its dataset and its collate function."""

    def __init__(self) -> None:
        self.slowest: list[tuple[int, str]] = []
        self._rows: list[Row] = []

    def options(self, loader: Any) -> dict[str, Any]:
        return clocked(loader)

    def begin(self, loader: Any) -> Iterator[Any]:
        self._rows = []
        return self._batches(iter(loader))

    def _batches(self, iterator: Any) -> Iterator[Any]:
        while True:
            asked_ns = time.monotonic_ns()
            try:
                stamped = next(iterator)
            except StopIteration:
                return
            left_ns = time.monotonic_ns()
            moments = stamped.moments
            if moments.slowest:
                self.slowest.append((moments.slowest_ns, moments.slowest))
                if len(self.slowest) > 50 * MOST_SLOWEST:
                    self.slowest = sorted(self.slowest, reverse=True)[:MOST_SLOWEST]
            got_ns = asked_ns if moments.worker < 0 else left_ns
            self._rows.append(
                Row(
                    moments.worker,
                    moments.samples,
                    0,
                    0,
                    moments.started,
                    moments.fetched,
                    moments.collated,
                    moments.collated,
                    moments.fetch_cpu,
                    moments.cpu,
                    asked_ns,
                    got_ns,
                    left_ns,
                    max(0, moments.started - asked_ns) if moments.worker < 0 else 0,
                    0,
                )
            )
            yield stamped.batch

    def end(self) -> Array:
        return np.array(self._rows, np.int64).reshape(len(self._rows), len(Row._fields))

    def drop(self) -> None:
        pass


class _Runner:
    """Runs epochs until the time is up."""

    def __init__(self, source: Any, step: Step, keep: Callable[[Any], None], seconds: float):
        self._source = source
        self._step = step
        self._keep = keep
        self._seconds = seconds
        self._began_s = time.monotonic()
        self._cpu_began_s = time.process_time()
        self._batches = 0
        self.epochs: list[Array] = []
        self.startup_s = 0.0
        self.elapsed_s = self.cpu_s = 0.0
        self.is_whole = False

    def goes_on(self) -> bool:
        passed_s = time.monotonic() - self._began_s
        if passed_s < self._seconds:
            return True
        return self._batches < LEAST_BATCHES and passed_s < 2 * self._seconds

    def run_epoch(self, loader: Any) -> bool:
        """Returns whether there is another one to run."""
        started_s = time.monotonic()
        batches = self._source.begin(loader)
        before, is_over = self._batches, True
        for batch in batches:
            if not self._batches:
                self.startup_s = time.monotonic() - started_s
                self._began_s, self._cpu_began_s = time.monotonic(), time.process_time()
            self._batches += 1
            self._step(batch)
            self._keep(batch)
            del batch
            if not self.goes_on():
                is_over = False
                break
        self.is_whole |= is_over
        if self._batches == before:
            return False
        self.epochs.append(self._source.end())
        return True

    def end(self) -> None:
        self.elapsed_s = time.monotonic() - self._began_s
        self.cpu_s = time.process_time() - self._cpu_began_s


@contextlib.contextmanager
def _closing(loader: Any) -> Iterator[None]:
    """End the loader's workers: ours by name, torch's by their iterator."""
    try:
        yield
    finally:
        iterator: Any = getattr(loader, "_iterator", None)
        if hasattr(loader, "close"):
            loader.close()
        elif hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
        loader._iterator = None


class _Workers(NamedTuple):
    largest_bytes: int
    read_bytes: int
    core_wait_s: float


def _look_at_workers() -> _Workers:
    """Memory that is one child's alone, the largest; what all read, and waited for a core."""
    largest, read, core_wait_s = 0, 0, 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, AttributeError):
            largest = max(largest, int(child.memory_full_info().uss))
            read += int(child.io_counters().read_bytes)
        core_wait_s += _core_wait_s(child.pid)
    return _Workers(largest, read, core_wait_s)


def _core_wait_s(pid: int) -> float:
    """How long a process was ready to run and had no core; 0 where the kernel does not say.

    Source: https://docs.kernel.org/scheduler/sched-stats.html
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
