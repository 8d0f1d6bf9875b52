"""What both of our iterators do alike: step, count, and go on in the middle of an epoch.

Runs in: consumer.
"""

from __future__ import annotations

from typing import Any

from fastload.internals import profiler_enabled
from fastload.resume import Position, skip


class Stepping:
    """Goes before one of torch's iterator classes, whose ``__next__`` it shortens."""

    position: Position
    _sampler_iter: Any
    _num_yielded: int
    _IterableDataset_len_called: int | None

    def __next__(self) -> Any:
        # torch's own also opens a profiler event, and warns of a stream longer than it said.
        if self._IterableDataset_len_called is None and not profiler_enabled():
            batch = self._next_data()
            self._num_yielded += 1
            return batch
        return super().__next__()  # type: ignore[misc]  # torch's class comes after this one

    def _next_data(self) -> Any:
        raise NotImplementedError

    def _skip_delivered(self, batches: int) -> None:
        """Leave out the part of the epoch's order that another process has delivered."""
        if batches:
            self._sampler_iter = skip(self._sampler_iter, batches)
            self._num_yielded = batches
