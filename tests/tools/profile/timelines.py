"""Trials of loaders that do not exist: a timeline is computed, so every figure of it is known.

``Pipeline`` says what each part of a loader takes; ``trial`` runs it at a setting by the rules of
torch's loader and gives the stamps that a profile would have of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastload.stats.rows import Row
from fastload.tools.profile.load import Consumer, Measured
from fastload.tools.profile.report import Setting
from fastload.tools.profile.trials import Trial

SAMPLES = 10


@dataclass(frozen=True)
class Pipeline:
    """What a batch takes at each part, in seconds.

    ``take_s`` is the consumer's time for a ready batch, of which ``take_cpu_s`` is CPU time;
    ``send_s`` CPU time of the worker behind its last stamp; ``waits_s`` waiting, batch by batch, as
    often as needed; ``core_waits_s`` waiting for a core in the same way.
    """

    cpu_s: float = 0.001
    waits_s: tuple[float, ...] = (0.0,)
    core_waits_s: tuple[float, ...] = (0.0,)
    send_s: float = 0.0
    take_s: float = 0.0
    take_cpu_s: float = 0.0
    step_s: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)

    def trial(self, workers: int, batches: int = 200, *, step: bool = False) -> Trial:
        """The stamps at this number of workers and a prefetch factor of 2; 0: without workers."""
        rows = self._inline(batches) if workers == 0 else self._rows(workers, batches, step)
        table = np.array(rows, np.int64)
        core_wait_s = sum(self.core_waits_s[n % len(self.core_waits_s)] for n in range(batches))
        return Trial(
            setting=Setting(workers, 2 if workers else 0),
            epochs=(table,),
            elapsed_s=(rows[-1].left - rows[0].left) / 1e9,
            consumer_cpu_s=self.take_cpu_s * batches,
            worker_bytes=0,
            read_bytes=0,
            core_wait_s=core_wait_s,
            workers_cpu_s=(self.cpu_s + self.send_s) * batches,
            slowest=(),
            startup_s=0.0,
            is_whole=False,
            **self.more,
        )

    def measured(self, own: int = 2, batches: int = 200) -> Measured:
        """What a profile of it has when the trials are over."""
        return Measured(
            inline=self.trial(0, batches),
            alone=self.trial(1, batches),
            crowded=self.trial(2, batches),
            own=self.trial(own, batches, step=True),
            consumer=Consumer(self.step_s, 0.0),
            batch_bytes=0,
        )

    def rate(self, workers: int, batches: int = 2_000) -> float:
        """Samples per second with the step, once the queue is full."""
        return self.trial(workers, batches, step=True).samples_per_s

    def without_core_waits(self) -> Pipeline:
        """The same on a machine that nobody else uses."""
        return replace(self, core_waits_s=(0.0,))

    def _parts(self, number: int) -> tuple[float, float]:
        wait_s = self.waits_s[number % len(self.waits_s)]
        return wait_s, self.core_waits_s[number % len(self.core_waits_s)]

    def _inline(self, batches: int) -> list[Row]:
        rows, now = [], 0.0
        for number in range(batches):
            ended = now + self.cpu_s + sum(self._parts(number))
            rows.append(self._row(-1, now, ended, now, ended))
            now = ended
        return rows

    def _rows(self, workers: int, batches: int, step: bool) -> list[Row]:
        rows, free, before = [], [0.0] * workers, 0.0
        taken: list[float] = []
        for number in range(batches):
            worker = number % workers
            given = taken[number - 2 * workers] if number >= 2 * workers else 0.0
            started = max(given, free[worker])
            ended = started + self.cpu_s + sum(self._parts(number))
            free[worker] = ended + self.send_s
            asked = before + (self.step_s if step and number else 0.0)
            before = max(asked, ended + self.send_s) + self.take_s
            taken.append(before)
            rows.append(self._row(worker, started, ended, asked, before))
        return rows

    def _row(self, worker: int, started: float, ended: float, asked: float, left: float) -> Row:
        ns = [round(each * 1e9) for each in (started, ended, asked, left, self.cpu_s)]
        return Row(
            *(worker, SAMPLES, 0, 0, ns[0], ns[1], ns[1], ns[1], ns[4], ns[4], ns[2]),
            *(ns[2] if worker < 0 else ns[3], ns[3], 0, 0),
        )
