"""Which number of workers, and which prefetch factor: decided by what was measured.

Runs in: consumer.
Takes: what each setting gave.
Gives: the next setting to try, or the one to keep, and why.

It begins without workers, which shows what a batch costs and what the training step takes. If the
step waits, it goes to as many workers as should feed it, then doubles them for as long as the step
still waits and throughput grows. Without starting a process this file can be tried on figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

WAITS = 0.05
"""Below this part of the time spent waiting, there is nothing to gain."""

BETTER = 1.05
"""A setting must be this much faster to be worth more processes."""

MOST_PER_CORE = 8
"""Workers a core, for loads that wait and hardly compute."""

DEFAULT_PREFETCH, MOST_PREFETCH = 2, 8

WORTH_S, EPOCHS = 2.0, 3
"""Workers are tried if so many epochs load for so long: a try that fails costs a twentieth of it.

Who has run more epochs than that is expected to run as many again.
"""

UNCLEAR = 0.9, 1.15
"""Between these, a setting that is so many times as fast as the best is measured for longer."""

WORKER_BYTES = 64 << 20
"""What a worker is expected to need of its own."""


class Choice(NamedTuple):
    """A setting."""

    workers: int
    prefetch: int

    def __str__(self) -> str:
        if self.workers == 0:
            return "num_workers=0"
        return f"num_workers={self.workers}, prefetch_factor={self.prefetch}"


@dataclass(frozen=True)
class Measurement:
    """What a setting gave; seconds a batch.

    Attributes:
        choice: The setting.
        samples_per_s: Throughput, the training step included.
        stall_share: Part of the time that the training step waited.
        load_s: Fetch and collate.
        cpu_s: CPU time of that.
        step_s: The training step.
        reorder_s: Ready, but waiting for a batch before it.
        batch_bytes: Size of the largest batch.
        idle_share: Part of the time that workers had no task; 0 without workers.
        core_wait_s: Part of ``load_s`` in which every core was taken, where that is known.
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
    """Within what it may choose.

    Attributes:
        cores: For this rank; may be a fraction.
        least: Workers, at least.
        most: Workers, at most; None leaves it to the load.
        prefetch: A fixed prefetch factor; None leaves it to the tuner.
        memory_bytes: What workers and batches together may take.
        epoch_batches: Batches of an epoch; None if not known.
    """

    cores: float
    least: int = 0
    most: int | None = None
    prefetch: int | None = None
    memory_bytes: int = 1 << 62
    epoch_batches: int | None = None


class Tuner:
    """Tries settings until one is good enough; keeps it from then on."""

    def __init__(self, limits: TunerBounds) -> None:
        self.limits = limits
        self.is_settled = False
        self.reason = "not measured yet"
        self.choice = Choice(limits.least, limits.prefetch or DEFAULT_PREFETCH)
        self.batch_bytes = 0
        self.epochs = 0
        self._seen: list[Measurement] = []

    def __str__(self) -> str:
        return f"{self.choice}: {self.reason}"

    def is_clear(self, seen: Measurement) -> bool:
        """Whether a setting is so much faster or slower than those before that chance can't be it.

        Where nothing is to be compared, it is.
        """
        least, most = UNCLEAR
        rates = [each.samples_per_s for each in self._seen if each.choice != seen.choice]
        return not rates or not least < seen.samples_per_s / max(*rates, 1e-9) < most

    def observe(self, seen: Measurement) -> None:
        """A setting was measured: choose the next one, or settle."""
        self._seen = [each for each in self._seen if each.choice != seen.choice]
        if self._seen:
            self._after_more(seen)
        else:
            self._after_first(seen)
        self._seen.append(seen)

    def settle(self, choice: Choice, reason: str) -> None:
        """Keep this one."""
        self.choice, self.reason, self.is_settled = choice, reason, True

    def _after_first(self, seen: Measurement) -> None:
        if seen.stall_share < WAITS:
            self.settle(seen.choice, f"the training step waits {seen.stall_share:.1%} of the time")
            return
        if not seen.choice.workers and self._is_too_little(seen):
            self.reason = (
                f"an epoch takes {seen.load_s * (self.limits.epoch_batches or 0):.2f} s to load; "
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
        """More batches ahead help where slow batches hold up others, so that workers run dry."""
        factor = seen.choice.prefetch
        may_grow = self.limits.prefetch is None and factor < MOST_PREFETCH and seen.choice.workers
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
        batches = self.limits.epoch_batches
        if batches is None:
            return False
        return batches * seen.load_s * max(EPOCHS, self.epochs) < WORTH_S

    def _needed(self, seen: Measurement) -> int:
        """Workers that load as fast as the step consumes, and a tenth more."""
        if seen.step_s <= 0:
            return 1 << 30
        return max(1, math.ceil(1.1 * seen.load_s / seen.step_s))

    def _most(self, seen: Measurement) -> int:
        """Workers for which there are cores and memory."""
        computing = max(map(_computing, (*self._seen, seen)))
        by_cores = min(self.limits.cores / computing, MOST_PER_CORE * self.limits.cores)
        each_bytes = WORKER_BYTES + self.choice.prefetch * seen.batch_bytes
        by_memory = self.limits.memory_bytes // each_bytes
        most = max(1, self.limits.least, min(round(by_cores), by_memory))
        return most if self.limits.most is None else min(most, self.limits.most)


def _computing(seen: Measurement) -> float:
    """Part of the loading time that needs a core; workers that wait for one seem to need less."""
    loading_s = max(seen.load_s - seen.core_wait_s, seen.cpu_s)
    return max(seen.cpu_s / loading_s, 1e-3) if loading_s > 0 else 1.0
