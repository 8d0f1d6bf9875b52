"""What a loader has running: its iterators, where the newest epoch stands, what it measured.

Runs in: consumer.

A copy or a pickle of a loader takes nothing of this along; it begins with an empty ``LoaderState``.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from fastload._autotune import numbers as auto
from fastload._autotune.tuner import Tuner
from fastload._device.copying import HandedOut
from fastload._epoch import resume
from fastload._epoch.loader import Loader
from fastload._epoch.seeded_pass import EpochClock
from fastload._epoch.way import Way
from fastload._loading.crew import Crew
from fastload._loading.dataset_state import DatasetState
from fastload._memory.reuse import ArenaUser
from fastload.stats.counters import Counters


class LoaderState:
    """What is alive of a loader: nothing that a copy of the loader would share."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.position: resume.EpochPosition | None = None
        self.state: dict[str, Any] | None = None
        self.rest: resume.Remainder | None = None
        self.dataset_state: DatasetState | None = None
        self.arena_user = ArenaUser()
        self.epochs = EpochClock()
        self.crew = Crew()
        self.handed_out: HandedOut | None = None
        self._tuner: Tuner | None = None
        self._iterators: weakref.WeakSet[Any] = weakref.WeakSet()
        self._newest: weakref.ref[Any] | None = None
        self._ways: dict[int, Way] = {}

    def tuner_of(self, loader: Loader) -> Tuner | None:
        """What chooses the number of workers of an automatic loader; None for any other."""
        if self._tuner is None and auto.is_auto(loader):
            self._tuner = auto.make_tuner(loader)
        if self._tuner is not None and self._tuner.is_settled:
            auto.apply(loader, self._tuner)
        return self._tuner

    def add(self, iterator: Any, position: resume.EpochPosition) -> Any:
        """Take note of the iterator of the epoch that begins, and return it."""
        iterator.position = self.position = position
        position.source = getattr(iterator, "source", None)
        self._iterators.add(iterator)
        self._newest = weakref.ref(iterator)
        self.counters = iterator._counters
        if self._tuner is not None:
            self.counters.describe_choice = self._tuner.__str__
        return iterator

    def newest(self) -> Any:
        """The iterator of the newest epoch, if anybody still holds it; otherwise None.

        Only weakly known: kept workers end when the loader drops ``_iterator``, which holds it.
        """
        return None if self._newest is None else self._newest()

    @property
    def way(self) -> Way | None:
        """The way in which this thread is beginning an epoch."""
        return self._ways.get(threading.get_ident())

    @contextlib.contextmanager
    def going(self, way: Way) -> Iterator[None]:
        """Epochs that this thread begins inside are loaded in this way."""
        thread = threading.get_ident()
        self._ways[thread] = way
        try:
            yield
        finally:
            self._ways.pop(thread, None)

    @contextlib.contextmanager
    def resuming(self, rest: resume.Remainder | None) -> Iterator[None]:
        """Iterators made inside give the rest of an epoch."""
        self.rest = rest
        try:
            yield
        finally:
            self.rest = None

    def take_dataset_state(self) -> DatasetState | None:
        """What the dataset goes on from in the epoch that begins; for that one only."""
        state, self.dataset_state = self.dataset_state, None
        return state

    def close(self) -> None:
        """Close every iterator that somebody still holds, and leave threads and shared memory."""
        for iterator in tuple(self._iterators):
            iterator.close()
        self.crew.close()
        self.arena_user.leave()

    def __reduce__(self) -> tuple[type[LoaderState], tuple[()]]:
        return LoaderState, ()
