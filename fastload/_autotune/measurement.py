"""Measure one setting over as many batches as a clear answer needs.

Runs in: consumer.
Takes: the counters of an epoch that is loaded with the setting.
Gives: a ``Measurement`` for the tuner.

Workers that start together finish together, so batches arrive in rounds of one from each worker.
The first round, in which workers start, is left out, and only whole rounds are counted.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from fastload._autotune.tuner import Choice, Measurement
from fastload._system.cores import core_wait_s
from fastload.stats.counters import Counters
from fastload.stats.rows import Array, columns, durations

INLINE_S, WORKERS_S, LONG_S = 0.05, 0.1, 0.3
"""Seconds for which a setting is measured: without workers; with them; if the answer is unclear."""

LEAST_INLINE, LEAST_BATCHES = 2, 4
"""Batches that are counted at least: without workers, and with them."""

_THIS_THREAD = "thread-self"


class MeasuringWindow:
    """The batches over which one setting is measured; the window may be made longer.

    Args:
        counters: Counters of the epoch; batches that they have counted before are left out.
        choice: The setting.
        skipped: Batches to leave out at the beginning; at least one round is left out.
        seconds: How long to measure; None takes the usual time.
    """

    def __init__(
        self, counters: Counters, choice: Choice, skipped: int = 0, seconds: float | None = None
    ) -> None:
        self.choice = choice
        self._counters = counters
        self._round = max(1, choice.workers)
        self._begin = counters.delivered_batches + max(self._round, skipped)
        self._least = max(self._round, LEAST_BATCHES) if choice.workers else LEAST_INLINE
        self._seconds = seconds or (WORKERS_S if choice.workers else INLINE_S)
        self._began_s = 0.0
        self._waited_s = core_wait_s(_THIS_THREAD)

    @property
    def batches(self) -> int:
        """Number of batches in the window so far; negative while some are still to be left out."""
        return self._counters.delivered_batches - self._begin

    def is_over(self) -> bool:
        """Tell whether the measurement is complete; called after each batch."""
        if self.batches < 0:
            return False
        now_s = time.monotonic()
        self._began_s = self._began_s or now_s
        is_long = now_s - self._began_s >= self._seconds and self.batches >= self._least
        return is_long and self.batches % self._round == 0

    def extend(self) -> None:
        """Measure for longer, because the answer is not clear."""
        self._seconds = LONG_S

    @property
    def is_longest(self) -> bool:
        """Whether the window can't be made longer."""
        return self._seconds >= LONG_S

    def measure(self, batch_bytes: int) -> Measurement | None:
        """The measurement so far; None if there are too few batches for one."""
        counted = self.batches // self._round * self._round
        rows = self._counters.rows()
        behind = self.batches - counted
        rows = rows[max(0, len(rows) - behind - counted - 1) : len(rows) - behind]
        if counted < 1 or len(rows) < 2:
            return None
        seen = _measure(self.choice, rows, batch_bytes)
        if self.choice.workers:
            return seen
        waited_s = (core_wait_s(_THIS_THREAD) - self._waited_s) / (self.batches + 1)
        return replace(seen, core_wait_s=max(0.0, waited_s))


def _measure(choice: Choice, rows: Array, batch_bytes: int) -> Measurement:
    """Measure from the delivery of the first row on; that row only marks the beginning."""
    of, took = columns(rows), durations(rows)
    elapsed_s = max(1, int(of["left"][-1] - of["left"][0])) / 1e9
    worked_s = float((of["written"] - of["started"])[1:].sum()) / 1e9
    return Measurement(
        choice=choice,
        samples_per_s=float(of["samples"][1:].sum()) / elapsed_s,
        stall_share=float(took["wait"][1:].sum()) / 1e9 / elapsed_s,
        load_s=float(np.mean((took["fetch"] + took["collate"])[1:])) / 1e9,
        cpu_s=float(np.mean(of["cpu"][1:])) / 1e9,
        step_s=float(np.median(took["busy"][:-1])) / 1e9,
        reorder_s=float(np.mean(took["reorder"][1:])) / 1e9,
        batch_bytes=max(batch_bytes, int(of["shared_bytes"].max())),
        idle_share=max(0.0, 1 - worked_s / (elapsed_s * max(1, choice.workers))),
    )
