"""Measure how loading goes over the last few seconds, not since the epoch began.

Runs in: consumer, in a thread beside training.
Takes: the counters of epochs that may be running.
Gives: a frozen reading, whenever asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastload.stats.counters import Counters, ready_batches
from fastload.stats.rows import MOST_ROWS, Array, columns

WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class Reading:
    """The last seconds of all loaders together.

    Attributes:
        samples_per_s: Samples delivered a second.
        stall_share: Part of the time that training waited for a batch, from 0 to 1.
        ready_batches: Batches that were ready when training asked for one, on average.
        silent_s: Time since the newest batch was delivered.
    """

    samples_per_s: float
    stall_share: float
    ready_batches: float
    silent_s: float


class Gauge:
    """Reads counters that another thread writes; it writes nothing there.

    Args:
        epochs: Gives the counters of every epoch that may be running.
        window_s: How far a reading looks back.
    """

    def __init__(
        self, epochs: Callable[[], Sequence[Counters]], window_s: float = WINDOW_S
    ) -> None:
        self._epochs = epochs
        self._window_ns = round(window_s * 1e9)
        self._latest: tuple[int, Reading] | None = None

    def read(self) -> Reading | None:
        """Return figures of the last seconds up to the newest batch; None before the first."""
        now_ns = time.monotonic_ns()
        since_ns = now_ns - self._window_ns
        recent = [each.rows() for each in self._epochs() if each.latest_ns >= since_ns]
        newest = self._measure([rows for rows in recent if len(rows)], since_ns)
        self._latest = newest or self._latest
        if self._latest is None:
            return None
        left_ns, reading = self._latest
        silent_s = max(0.0, (now_ns - left_ns) / 1e9)
        return Reading(reading.samples_per_s, reading.stall_share, reading.ready_batches, silent_s)

    def _measure(self, epochs: Sequence[Array], since_ns: int) -> tuple[int, Reading] | None:
        """Return when the last batch was delivered, and the figures from ``since_ns`` to then."""
        begin_ns = max([since_ns, *(_known_since(rows) for rows in epochs if _is_cut(rows))])
        parts = [rows[columns(rows)["left"] > begin_ns] for rows in epochs]
        parts = [part for part in parts if len(part)]
        if not parts:
            return None
        of_parts = [columns(part) for part in parts]
        end_ns = max(int(of["left"][-1]) for of in of_parts)
        elapsed_ns = max(1, end_ns - max(begin_ns, min(int(of["asked"][0]) for of in of_parts)))
        waited_ns = sum(int((of["left"] - of["asked"].clip(min=begin_ns)).sum()) for of in of_parts)
        ready = sum(ready_batches(part) * len(part) for part in parts)
        return end_ns, Reading(
            samples_per_s=sum(int(of["samples"].sum()) for of in of_parts) / elapsed_ns * 1e9,
            stall_share=min(1.0, waited_ns / elapsed_ns),
            ready_batches=ready / sum(map(len, parts)),
            silent_s=0.0,
        )


def _is_cut(rows: Array) -> bool:
    """Whether the epoch has had more batches than it remembers."""
    return len(rows) >= MOST_ROWS


def _known_since(rows: Array) -> int:
    return int(columns(rows)["left"][0])
