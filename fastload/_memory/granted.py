"""The slots that one worker may write to, as that worker sees them.

Runs in: worker.
Takes: its flags in the arena, which the consumer sets whenever a slot is free.
Gives: the slot to write the next batch to.

The flags are shared memory and not messages: a slot is often freed after the task that will use
it was sent, and a worker that waited for a message would write to a slot more.
"""

from __future__ import annotations

from fastload._memory.arena import Arena

NO_SLOT = -1
"""In place of a slot's number: the batch travels by pipe."""

ANYBODY = -1
"""In place of a worker's number: a task, and the slot for it, go to whoever is idle."""


class Grants:
    """Takes the slot written most recently: its pages are mapped, and perhaps cached."""

    def __init__(self, arena: Arena | None, worker: int) -> None:
        self._flags = memoryview(b"") if arena is None else arena.flags(worker)
        self._recent: list[int] = []

    def take(self) -> int:
        """A slot for one batch, or NO_SLOT."""
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
