"""What is alive of one loader, and what neither a copy nor a pickle of it takes along.

Runs in: consumer.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

from fastload._autotune import numbers as auto
from fastload._epoch import resume
from fastload._memory.reuse import ArenaUser
from fastload._seeded.passes import EpochClock
from fastload.stats.counters import Counters


class LoaderState:
    """What is alive of a loader: nothing that a copy of the loader would share."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.position: resume.EpochPosition | None = None
        self.state: dict[str, Any] | None = None
        self.rest: resume.Remainder | None = None
        self.arena_user = ArenaUser()
        self.epochs = EpochClock()
        self.kept_workers: Any = None
        self._tuner: Any = None
        self._iterators: weakref.WeakSet[Any] = weakref.WeakSet()

    def tuner_of(self, loader: Any) -> Any:
        """What chooses the number of workers of an automatic loader; None for any other."""
        if self._tuner is None and auto.is_auto(loader):
            self._tuner = auto.make_tuner(loader)
        if self._tuner is not None and self._tuner.is_settled:
            auto.apply(loader, self._tuner)
        return self._tuner

    def add(self, iterator: Any, position: resume.EpochPosition) -> Any:
        iterator.position = self.position = position
        self._iterators.add(iterator)
        self.counters = iterator._counters
        if self._tuner is not None:
            self.counters.describe_choice = self._tuner.__str__
        return iterator

    def owns(self, iterator: Any) -> bool:
        """Whether an iterator was made by this very loader."""
        return iterator is not None and iterator in self._iterators

    @contextlib.contextmanager
    def resuming(self, rest: resume.Remainder | None) -> Iterator[None]:
        """Iterators made inside give the rest of an epoch."""
        self.rest = rest
        try:
            yield
        finally:
            self.rest = None

    def close(self) -> None:
        for iterator in tuple(self._iterators):
            iterator.close()
        self.arena_user.leave()

    def __reduce__(self) -> tuple[type[LoaderState], tuple[()]]:
        return LoaderState, ()
