"""Park the slots of workers that have ended, and their pages, for the next workers.

Runs in: consumer.
Takes: slots at the end of an epoch of which the workers are not kept.
Gives: the same slots to the next loader that starts workers and that they suit.

To touch a page for the first time takes longer than to write a batch into it, and most programs
begin an epoch where they ended one. At most one arena waits, and at most ``MOST_BYTES`` of it, for
as long as a loader lives that has used it; so two loaders that take turns share one. When workers
start that it does not suit, its pages are freed.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from fastload._memory.slots import Slots
from fastload._system.interruptions import own_suppressed

MOST_BYTES = 1 << 30
"""The most memory that waits, between epochs, for workers to come."""

MOST_WORN = 2
"""The most quarantined slots with which an arena is used again."""

_waiting: list[Slots] = []  # changed by single calls into C only: garbage collection may interrupt


class ArenaUser:
    """A loader's share in the slots that it used last; the share ends with the loader."""

    def __init__(self) -> None:
        self._slots: weakref.ref[Slots] | None = None

    def enter(self, slots: Slots) -> None:
        """Note that the loader's workers use these slots now."""
        if self._slots is None:
            weakref.finalize(self, _review).atexit = False
        self.leave()
        self._slots = weakref.ref(slots)
        slots.tenants.add(self)

    def leave(self) -> None:
        """Note that the loader has no use for slots any more."""
        slots = None if self._slots is None else self._slots()
        if slots is not None:
            slots.tenants.discard(self)
            _review()


def put(slots: Slots) -> None:
    """Park slots whose workers are gone, and keep them if a loader may want them again."""
    if not slots.is_keepable or not slots.tenants.all():
        slots.park()
        return
    slots.park(MOST_BYTES)
    if slots not in _waiting:
        _waiting.append(slots)
    while len(_waiting) > 1:
        _waiting.pop(0).park()
    _review()  # the last tenant may have left meanwhile


def take(workers: int, slots: int, stride_bytes: int) -> Slots | None:
    """Return parked slots that suffice for so many workers, or None after freeing their memory.

    Args:
        workers: How many workers will write to them.
        slots: How many slots they need.
        stride_bytes: The stride that a new arena would have; a quarter of it suffices.
    """
    while _waiting:
        found = _waiting.pop()
        if found.owner != os.getpid():
            continue
        arena = found.arena
        # No worker is left, so what is quarantined stays so: some other child may read it.
        suits = arena.workers >= workers and arena.slots >= slots
        if (
            suits
            and 4 * arena.stride_bytes >= stride_bytes
            and found.quarantined_count <= MOST_WORN
        ):
            return found
        found.park()
    return None


def clear() -> None:
    """Free the memory of all parked slots that wait here."""
    while _waiting:
        _waiting.pop().park()


def held_bytes() -> int:
    """Return the bytes of memory that wait here."""
    return sum(slots.held_bytes() for slots in _waiting if slots.owner == os.getpid())


def _review(*_: Any) -> None:
    """Free the memory of slots in which no loader has a share."""
    for slots in tuple(_waiting):
        if slots.owner == os.getpid() and not slots.tenants.all():
            with own_suppressed(ValueError):  # another thread has taken it
                _waiting.remove(slots)
                slots.park()
