"""The slots that are granted to one worker, as that worker sees them.

Runs in: worker.
Takes: the worker's flags in the arena, one a slot, which the consumer sets whenever a slot is free.
Gives: the slot to write the next batch to.

Grants are flags in shared memory and not messages, because a slot is often freed after the task
that will use it was sent. A worker that waited for a message would touch one slot more.
"""

from __future__ import annotations

from fastload._memory.arena import Arena

NO_SLOT = -1
"""Stands in the place of a slot's number where a batch travels by pipe."""

ANYBODY = -1
"""In place of a worker's number: a task, and the slot for it, go to whoever is idle."""


class Grants:
    """Chooses among the granted slots the one written last, of which the pages are mapped."""

    def __init__(self, arena: Arena | None, worker: int) -> None:
        self._flags = memoryview(b"") if arena is None else arena.flags(worker)
        self._recent: list[int] = []

    def take(self) -> int:
        """Return a slot for one batch and give up the grant; NO_SLOT if none is granted."""
        flags, recent = self._flags, self._recent
        for position in range(len(recent) - 1, -1, -1):
            if flags[recent[position]]:
                slot = recent.pop(position)
                break
        else:
            slot = bytes(flags).find(1)
            if slot == -1:
                return NO_SLOT
        flags[slot] = 0
        recent.append(slot)
        return slot
