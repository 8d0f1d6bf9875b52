"""Collect what every epoch counts, whichever loader of this process begins it.

Runs in: consumer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastload.stats.snapshot import Stats

if TYPE_CHECKING:
    from fastload.stats.counters import Counters

MOST_RECENT = 16
"""Number of finished epochs that a recording keeps with every row."""


class Recording:
    """All epochs that any loader of this process begins while the recording lasts.

    Of epochs that are over, only the sums are kept, and every row of the newest few.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._begun: list[weakref.ref[Counters]] = []  # replaced, never changed: threads read it
        self._recent: deque[Counters] = deque(maxlen=MOST_RECENT)
        self._ended: list[Stats] = []

    def begin(self, counters: Counters) -> None:
        """Add an epoch that begins."""
        alive = [each for each in self._begun if each() is not None]
        self._begun = [*alive, weakref.ref(counters)]
        self._recent.append(counters)

    def end(self, counters: Counters) -> None:
        """Keep the sums of an epoch whose iterator is gone."""
        if self.is_over:
            return
        self._ended.append(dataclasses.replace(counters.snapshot(), slowest=(), skipped=()))

    def running(self) -> tuple[Counters, ...]:
        """Counters of epochs that may still be running, and of the newest that are over."""
        found = [each() for each in self._begun]
        return tuple(each for each in found if each is not None)

    def snapshots(self) -> list[Stats]:
        """One ``Stats`` for each epoch, up to now."""
        return [*self._ended, *(each.snapshot() for each in self.running())]


_recording: Recording | None = None


@contextlib.contextmanager
def recording() -> Iterator[Recording]:
    """Collect what every epoch counts that any loader of this process begins in the block."""
    global _recording  # noqa: PLW0603
    before, _recording = _recording, Recording()
    try:
        yield _recording
    finally:
        _recording.is_over = True
        _recording = before


def current() -> Recording | None:
    """The recording that a new epoch joins; None outside ``with recording()``."""
    return _recording
