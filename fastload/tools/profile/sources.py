"""Where the rows of a trial come from: our loader stamps itself, torch's gets clocks.

Runs in: consumer.
Takes: the loader of a trial.
Gives: its batches, and then its rows of stamps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastload.stats.rows import Array, Row
from fastload.tools.profile.clocked import clocked

MOST_SLOWEST = 20
"""Slow samples that are kept."""


class OfFastload:
    """Our loader stamps each batch by itself."""

    def __init__(self) -> None:
        self.slowest: list[tuple[int, str]] = []
        self._iterator: Any = None

    def options(self, loader: Any) -> dict[str, Any]:  # noqa: ARG002  (the other source needs it)
        """Arguments to make the loader of the trial with."""
        return {}

    def begin(self, loader: Any) -> Iterator[Any]:
        """Begin an epoch and return the iterator over its batches.

        All workers are started before the first batch is asked for, as torch's loader does it. Ours
        would start the rest of them while batches come, and a short trial of many workers would see
        little else.
        """
        self._iterator = iter(loader)
        getattr(self._iterator, "_workers", None)  # asking for them starts them
        return self._iterator  # type: ignore[no-any-return]  # an iterator of batches

    def end(self) -> Array:
        """Return the rows of the epoch that was begun last: ``(batches, fields)``."""
        counters = self._iterator._counters
        self.slowest += [
            (round(each.elapsed_s * 1e9), each.index) for each in counters.snapshot().slowest
        ]
        rows: Array = counters.rows()
        return rows

    def drop(self) -> None:
        """Let go of the iterator, so that its workers can end."""
        self._iterator = None


class OfTorch:
    """Torch's loader has clocks around its dataset and its collate function."""

    def __init__(self) -> None:
        self.slowest: list[tuple[int, str]] = []
        self._rows: list[Row] = []

    def options(self, loader: Any) -> dict[str, Any]:
        """Arguments to make the loader of the trial with."""
        return clocked(loader)

    def begin(self, loader: Any) -> Iterator[Any]:
        """Begin an epoch and return the iterator over its batches."""
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
        """Return the rows of the epoch that was begun last: ``(batches, fields)``."""
        return np.array(self._rows, np.int64).reshape(len(self._rows), len(Row._fields))

    def drop(self) -> None:
        """Let go of nothing: no iterator is held."""
