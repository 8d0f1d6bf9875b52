"""Decide on the number of workers and the prefetch factor, from measurements of a few settings.

Runs in: consumer.
Takes: a ``Measurement`` of each setting that was tried.
Gives: the next setting to try, or the one to keep and the reason in words.

The first setting has no workers, which shows what loading a batch costs and how long the training
step takes. If the step waits for data, the next setting has as many workers as should feed it;
their number is doubled for as long as the step still waits and throughput grows. Nothing here
starts a process, so the decisions are tested on figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

WAITS = 0.05
"""A training step that waits for a smaller part of the time has nothing to gain from workers."""

BETTER = 1.05
"""A setting with more processes is kept only if throughput grows by this factor."""

MOST_PER_CORE = 8
"""Workers for each core, at most; only loads that wait and hardly compute get so many."""

DEFAULT_PREFETCH, MOST_PREFETCH = 2, 8

WORTH_S, EPOCHS = 2.0, 3
"""Workers are tried only if ``EPOCHS`` epochs take ``WORTH_S`` s to load: trying costs about a
twentieth of that.

A program that has run more epochs already is expected to run as many again.
"""

UNCLEAR = 0.9, 1.15
"""A throughput between these multiples of the best one so far is measured again, for longer."""

WORKER_BYTES = 64 << 20
"""Private memory that a worker is expected to need."""


class Choice(NamedTuple):
    """A setting of the loader: number of workers, and batches loaded ahead by each."""

    workers: int
    prefetch: int

    def __str__(self) -> str:
        if self.workers == 0:
            return "num_workers=0"
        return f"num_workers={self.workers}, prefetch_factor={self.prefetch}"


@dataclass(frozen=True)
class Measurement:
    """What one setting gave; all times are seconds for each batch.

    Attributes:
        choice: The setting.
        samples_per_s: Throughput of loading and training together.
        stall_share: Part of the time that the training step waited for data, from 0 to 1.
        load_s: Time to fetch and collate a batch.
        cpu_s: CPU time of fetching and collating it.
        step_s: Time of the training step.
        reorder_s: How long a batch that was ready waited for one before it.
        batch_bytes: Size of the largest batch.
        idle_share: Part of the time that workers had no task; 0 without workers.
        core_wait_s: Part of ``load_s`` spent waiting for a free core, where that is known.
    """

    choice: Choice
    samples_per_s: float
    stall_share: float
    load_s: float
    cpu_s: float
    step_s: float
    reorder_s: float
    batch_bytes: int
    idle_share: float = 0.0
    core_wait_s: float = 0.0


@dataclass(frozen=True)
class TunerBounds:
    """Bounds on the tuner's choice.

    Attributes:
        cores: Cores that this rank may use; may be a fraction.
        least: Smallest number of workers.
        most: Largest number of workers; None leaves it to the measurements.
        prefetch: A prefetch factor that is given; None leaves it to the tuner.
        memory_bytes: Memory that workers and their batches may take together.
        epoch_batches: Number of batches in an epoch; None if it is not known.
    """

    cores: float
    least: int = 0
    most: int | None = None
    prefetch: int | None = None
    memory_bytes: int = 1 << 62
    epoch_batches: int | None = None


class Tuner:
    """Tries one setting after another until one is good enough, and keeps that one."""

    def __init__(self, bounds: TunerBounds) -> None:
        self.bounds = bounds
        self.is_settled = False
        self.reason = "not measured yet"
        self.choice = Choice(bounds.least, bounds.prefetch or DEFAULT_PREFETCH)
        self.batch_bytes = 0
        self.epochs = 0
        self._seen: list[Measurement] = []

    def __str__(self) -> str:
        return f"{self.choice}: {self.reason}"

    def is_clear(self, seen: Measurement) -> bool:
        """Tell whether the difference to the settings before is too large to be chance.

        The first measurement has nothing to be compared with, and counts as clear.
        """
        least, most = UNCLEAR
        rates = [each.samples_per_s for each in self._seen if each.choice != seen.choice]
        return not rates or not least < seen.samples_per_s / max(*rates, 1e-9) < most

    def observe(self, seen: Measurement) -> None:
        """Take the measurement of a setting; choose the next one to try, or settle on the best."""
        self._seen = [each for each in self._seen if each.choice != seen.choice]
        if self._seen:
            self._after_more(seen)
        else:
            self._after_first(seen)
        self._seen.append(seen)

    def settle(self, choice: Choice, reason: str) -> None:
        """Keep this setting from now on."""
        self.choice, self.reason, self.is_settled = choice, reason, True

    def _after_first(self, seen: Measurement) -> None:
        if seen.stall_share < WAITS:
            self.settle(seen.choice, f"the training step waits {seen.stall_share:.1%} of the time")
            return
        if not seen.choice.workers and self._is_too_little(seen):
            self.reason = (
                f"an epoch takes {seen.load_s * (self.bounds.epoch_batches or 0):.2f} s to load; "
                f"starting workers would cost more than they save"
            )
            return
        workers = min(self._needed(seen), self._most(seen))
        if workers <= seen.choice.workers:
            self._grow_prefetch(seen, "no more workers fit into cores and memory")
        else:
            self._try(Choice(workers, self.choice.prefetch), seen)

    def _after_more(self, seen: Measurement) -> None:
        best = max(self._seen, key=lambda each: each.samples_per_s)
        if seen.samples_per_s < BETTER * best.samples_per_s:
            gained = seen.samples_per_s / best.samples_per_s
            self.settle(
                best.choice,
                f"{best.samples_per_s:,.0f} samples/s; {seen.choice} gave {gained:.2f} times that",
            )
        elif seen.stall_share < WAITS:
            self.settle(
                seen.choice,
                f"{seen.samples_per_s:,.0f} samples/s; the training step waits "
                f"{seen.stall_share:.1%} of the time",
            )
        elif seen.choice.workers < self._most(seen):
            self._try(
                Choice(min(2 * seen.choice.workers, self._most(seen)), seen.choice.prefetch), seen
            )
        else:
            self._grow_prefetch(seen, "no more workers fit into cores and memory")

    def _grow_prefetch(self, seen: Measurement, reason: str) -> None:
        """Load more batches ahead if slow batches hold up others, so that workers run idle."""
        factor = seen.choice.prefetch
        may_grow = self.bounds.prefetch is None and factor < MOST_PREFETCH and seen.choice.workers
        runs_dry = seen.idle_share > WAITS and seen.reorder_s > WAITS * seen.load_s
        if may_grow and runs_dry:
            self._try(Choice(seen.choice.workers, 2 * factor), seen)
        else:
            self.settle(seen.choice, f"{seen.samples_per_s:,.0f} samples/s; {reason}")

    def _try(self, choice: Choice, seen: Measurement) -> None:
        self.choice = choice
        self.reason = (
            f"trying it: with {seen.choice} the training step waits {seen.stall_share:.0%} of the "
            f"time"
        )

    def _is_too_little(self, seen: Measurement) -> bool:
        batches = self.bounds.epoch_batches
        if batches is None:
            return False
        return batches * seen.load_s * max(EPOCHS, self.epochs) < WORTH_S

    def _needed(self, seen: Measurement) -> int:
        """The number of workers that load as fast as the step consumes, and a tenth more."""
        if seen.step_s <= 0:
            return 1 << 30
        return max(1, math.ceil(1.1 * seen.load_s / seen.step_s))

    def _most(self, seen: Measurement) -> int:
        """The number of workers for which there are cores and memory."""
        computing = max(map(_computing, (*self._seen, seen)))
        by_cores = min(self.bounds.cores / computing, MOST_PER_CORE * self.bounds.cores)
        each_bytes = WORKER_BYTES + self.choice.prefetch * seen.batch_bytes
        by_memory = self.bounds.memory_bytes // each_bytes
        most = max(1, self.bounds.least, min(round(by_cores), by_memory))
        return most if self.bounds.most is None else min(most, self.bounds.most)


def _computing(seen: Measurement) -> float:
    """Part of the loading time that needs a core.

    Time spent waiting for a core is taken out first: it would look like loading that needs none.
    """
    loading_s = max(seen.load_s - seen.core_wait_s, seen.cpu_s)
    return max(seen.cpu_s / loading_s, 1e-3) if loading_s > 0 else 1.0
