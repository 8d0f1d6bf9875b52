"""Run a loader for a while at one setting, and keep the stamps of each batch.

Runs in: consumer.
Takes: a loader of either kind, a setting, a step that stands for the consumer.
Gives: a ``Trial``: rows of stamps (``fastload.stats.rows``), whatever the loader.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastload._system.cores import core_wait_s
from fastload.stats.rows import Array, columns, durations
from fastload.tools.profile.rebuild import many_workers_allowed, rebuild
from fastload.tools.profile.replay import LONGEST_EPOCH
from fastload.tools.profile.report import Setting
from fastload.tools.profile.sources import MOST_SLOWEST, OfFastload, OfTorch
from fastload.tools.profile.worker_usage import NOTHING_SEEN, look_at_workers

Step = Callable[[Any], Any]

LEAST_BATCHES = 12
"""A trial goes on past its time until it has this many, or twice its time has passed."""

FEWEST_BATCHES = 3
"""A trial has at least so many, even if the time of the whole profile is up."""


@dataclass(frozen=True)
class Trial:
    """The stamps and counts of a loader that ran at one setting.

    Attributes:
        setting: At which.
        epochs: Rows of each epoch, in the order of delivery: ``(batches, fields)``.
        elapsed_s: From the first batch that counts to the last.
        consumer_cpu_s: CPU time of this process in that.
        worker_bytes: Memory that is one worker's alone, the largest.
        read_bytes: Bytes that all workers read from storage.
        core_wait_s: How long all workers together waited for a core; without workers, this process
            outside of the step.
        workers_cpu_s: CPU time of all workers together, all their threads.
        slowest: Nanoseconds and index of the slowest samples, the slowest first.
        startup_s: From ``iter`` to the first batch.
        is_whole: Whether an epoch was over before the time was.
        short: Of each short epoch that was run to its end, but for the first, in which workers are
            started: samples, nanoseconds, and those of them that the consumer waited.
        idle_cores: How many of the cores that this process may use were idle, on average; None if
            not known.
    """

    setting: Setting
    epochs: tuple[Array, ...]
    elapsed_s: float
    consumer_cpu_s: float
    worker_bytes: int
    read_bytes: int
    core_wait_s: float
    workers_cpu_s: float
    slowest: tuple[tuple[int, str], ...]
    startup_s: float
    is_whole: bool
    short: tuple[tuple[int, int, int], ...] = ()
    idle_cores: float | None = None

    @property
    def rows(self) -> Array:
        """Return all rows that count: those after each epoch's start."""
        return np.concatenate([self.steady(rows) for rows in self.epochs])

    def steady(self, rows: Array) -> Array:
        """Return the rows after the workers have filled the queue, if enough are left."""
        setting = self.setting
        skipped = max(2, setting.num_workers * setting.prefetch_factor)
        return rows[skipped:] if len(rows) >= 2 * skipped + 4 else rows[len(rows) // 3 :]

    def mean_s(self, stage: str) -> float:
        """Return the seconds that a batch takes at a stage on average."""
        return float(self.took(stage).mean())

    def took(self, stage: str) -> Any:
        """Return the seconds of each batch at a stage."""
        parts = [durations(self.steady(rows))[stage] for rows in self.epochs]
        if stage == "busy":
            parts = [part[:-1] for part in parts]
        return np.concatenate(parts) / 1e9

    @property
    def samples_per_s(self) -> float:
        """Return samples per second: of whole epochs where they are short, else of steady rows."""
        if self.short:
            return sum(n for n, _, _ in self.short) / (sum(ns for _, ns, _ in self.short) / 1e9)
        return self.steady_samples_per_s

    @property
    def steady_samples_per_s(self) -> float:
        """Return samples per second inside epochs, once the queue is full."""
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
        """Return how long a worker waited for a core, per batch."""
        return self.core_wait_s / sum(map(len, self.epochs))

    @property
    def period_s(self) -> float:
        """Return the seconds from one batch to the next, inside epochs."""
        rate = self.steady_samples_per_s
        return self.samples_per_batch / rate if rate else 0.0

    @property
    def samples_per_batch(self) -> float:
        """Return the number of samples of a batch, on average."""
        return float(columns(self.rows)["samples"].mean())

    @property
    def stall_share(self) -> float:
        """Return the part of that time, from 0 to 1, in which the consumer waited for a batch."""
        if self.short:
            return sum(ns for _, _, ns in self.short) / sum(ns for _, ns, _ in self.short)
        wait, busy = self.took("wait").sum(), self.took("busy").sum()
        return float(wait / (wait + busy)) if wait + busy else 0.0


def run_trial(
    loader: Any,
    setting: Setting,
    kind: str,
    step: Step,
    seconds: float,
    keep: Callable[[Any], None] = lambda _: None,
    deadline_s: float = math.inf,
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
        deadline_s: moment of the monotonic clock after which no further batch is asked for, if
            there are enough to tell a rate.
        changes: further arguments of the loader.
    """
    source = OfFastload() if kind == "fastload" else OfTorch()
    trial = rebuild(loader, setting, kind, **source.options(loader), **changes)
    runner = _Runner(source, step, keep, seconds, deadline_s)
    if setting.num_workers == 0:
        runner.watch_steps()
    with many_workers_allowed(), _closing(trial):
        while runner.goes_on():
            if not runner.run_epoch(trial):
                break
        runner.end()
        seen = look_at_workers()
    source.drop()
    if not runner.epochs:
        raise ValueError(
            "the loader gave no batch: its dataset or sampler is empty, or its sampler is an "
            "iterator that can be read only once; a profile reads it several times"
        )
    used = seen.since(runner.before)
    return Trial(
        setting,
        tuple(runner.epochs),
        runner.elapsed_s,
        runner.cpu_s,
        used.largest_bytes,
        used.read_bytes,
        max(0.0, used.core_wait_s - runner.step_core_wait_s),
        used.cpu_s,
        tuple(sorted(source.slowest, reverse=True)[:MOST_SLOWEST]),
        runner.startup_s,
        runner.is_whole,
        tuple(runner.short),
        used.idle_s / runner.elapsed_s if runner.elapsed_s else None,
    )


class _Runner:
    """Runs epochs of one loader until the time is up, and counts what they take."""

    def __init__(
        self,
        source: Any,
        step: Step,
        keep: Callable[[Any], None],
        seconds: float,
        deadline_s: float,
    ) -> None:
        self._source = source
        self._step = step
        self._keep = keep
        self._seconds = seconds
        self._deadline_s = deadline_s
        self._began_s = time.monotonic()
        self._cpu_began_s = time.process_time()
        self._batches = 0
        self.epochs: list[Array] = []
        self.short: list[tuple[int, int, int]] = []
        self.startup_s = 0.0
        self.elapsed_s = self.cpu_s = 0.0
        self.step_core_wait_s = 0.0
        self.is_whole = False
        self.before = NOTHING_SEEN

    def watch_steps(self) -> None:
        """Note how long steps wait for a core: without workers they share the loading process."""
        step = self._step

        def watched(batch: Any) -> None:
            before_s = core_wait_s("thread-self")
            step(batch)
            self.step_core_wait_s += core_wait_s("thread-self") - before_s

        self._step = watched

    def goes_on(self) -> bool:
        now_s = time.monotonic()
        if now_s > self._deadline_s and self._batches >= FEWEST_BATCHES:
            return False
        passed_s = now_s - self._began_s
        if passed_s < self._seconds:
            return True
        return self._batches < LEAST_BATCHES and passed_s < 2 * self._seconds

    def run_epoch(self, loader: Any) -> bool:
        """Run one epoch; return whether it gave any batch."""
        started_s = time.monotonic()
        batches = self._source.begin(loader)
        before, is_over = self._batches, True
        for batch in batches:
            if not self._batches:
                self.startup_s = time.monotonic() - started_s
                self.before = look_at_workers()
                self._began_s, self._cpu_began_s = time.monotonic(), time.process_time()
            self._batches += 1
            self._step(batch)
            self._keep(batch)
            del batch
            if not self.goes_on():
                is_over = False
                break
        ended_s = time.monotonic()
        self.is_whole |= is_over
        if self._batches == before:
            return False
        rows = self._source.end()
        if is_over and self.epochs and len(rows) <= LONGEST_EPOCH:
            self.short.append(_sum_up(rows, round(started_s * 1e9), round(ended_s * 1e9)))
        self.epochs.append(rows)
        return True

    def end(self) -> None:
        self.elapsed_s = time.monotonic() - self._began_s
        self.cpu_s = time.process_time() - self._cpu_began_s


def _sum_up(rows: Array, began_ns: int, ended_ns: int) -> tuple[int, int, int]:
    """Return the samples of an epoch, its nanoseconds, and those that the consumer waited."""
    of = columns(rows)
    waited_ns = int((of["left"] - of["asked"]).sum() + max(0, of["asked"][0] - began_ns))
    return int(of["samples"].sum()), ended_ns - began_ns, waited_ns


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
