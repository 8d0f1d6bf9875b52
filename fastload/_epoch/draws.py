"""The sampler's indices, of which an exception from outside loses none without a word.

Runs in: consumer.
Takes: the sampler's iterator.
Gives: the indices of one batch after the other, each until it is said to be used.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from fastload._system.interruptions import has_hit_called_code, is_from_outside

NO_MORE: Final = object()
"""The sampler has come to its end; None is what a stream's sampler gives for each sample."""


class SamplerFailed(NamedTuple):
    """Stands where the indices would be that the sampler did not give."""

    error: Exception


class Draws:
    """Draws from the sampler when indices are asked for, and keeps what it drew until it is used.

    Attributes:
        is_broken: An exception from outside hit the sampler's own code. A generator is dead then,
            and any other iterator may have lost a batch; so nothing more is drawn, and the end that
            follows is not that of the epoch.
    """

    def __init__(self, indices: Iterator[Any]) -> None:
        self._indices: Iterator[Any] | None = indices
        self._drawn: deque[Any] = deque()
        self.is_broken = False

    def look(self, ahead: int = 0) -> Any:
        """The indices of the next batch, or a ``SamplerFailed``, or ``NO_MORE``.

        The same again until ``used``. An error of the sampler takes the place of the indices it
        would have given.

        Args:
            ahead: Of so many batches after this one the indices are drawn now too.

        Raises:
            BaseException: An exception from outside. A later call goes on, or finds ``is_broken``.
        """
        if len(self._drawn) <= ahead:
            self.fill(ahead + 1)
        return self._drawn[0] if self._drawn else NO_MORE

    def fill(self, batches: int) -> None:
        """Draw until the indices of so many batches are there, or the sampler has no more."""
        drawn = self._drawn
        while len(drawn) < batches and self._indices is not None and not self.is_broken:
            before = len(drawn)
            try:
                # One call into C that draws and stores: no handler of a signal runs in between. Not
                # islice, which calls the iterator's __iter__: Lightning's begins anew then.
                drawn.extend(map(next, itertools.repeat(self._indices, 1)))
            except BaseException as error:
                self.is_broken = True  # until the error is in its place
                if is_from_outside(error):
                    self.is_broken = has_hit_called_code(error)
                    raise
                if not isinstance(error, Exception):
                    raise
                drawn.append(SamplerFailed(error))
                self.is_broken = False
            else:
                if len(drawn) == before:
                    self._indices = None

    def used(self) -> None:
        """What ``look`` gave is not needed again."""
        self._drawn.popleft()

    def end(self) -> None:
        """Nothing more is given out."""
        self._indices = None
        self._drawn.clear()
