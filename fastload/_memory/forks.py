"""Keep slots out of use while a forked child of the training process may still read them.

Runs in: consumer.

A child sees every batch that was leased when it was forked. Those slots are quarantined: until the
children are gone if they are our own workers, for good if somebody else forked.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from fastload._memory.arena import Bytes
from fastload._memory.share_memory import find_owners_with
from fastload._memory.slots import Slots, all_slots

_forking = threading.local()
_FOREIGN_FORK = object()


@contextlib.contextmanager
def forking_workers(watcher: object) -> Iterator[None]:
    """Mark forks of this thread as our workers: what they see is quarantined for ``watcher``."""
    _forking.watcher = watcher
    try:
        yield
    finally:
        del _forking.watcher


def workers_gone(watcher: object) -> None:
    """Tell every free list that the processes behind ``watcher`` have ended."""
    for slots in all_slots.all():
        slots.end_quarantine(watcher)


def _view_at(address: int) -> Bytes | None:
    for slots in all_slots.all():
        view = slots.view_at(address)
        if view is not None:
            return view
    return None


find_owners_with(_view_at)


def _before_fork() -> None:
    """Lock all free lists, so that no lease begins or ends in any thread during a fork.

    What is leased now, the child will see; it is quarantined.
    """
    watcher = getattr(_forking, "watcher", _FOREIGN_FORK)
    _forking.locked = _locked(all_slots.all())
    for slots in _forking.locked:
        slots.quarantine(watcher)


def _locked(every: list[Slots]) -> list[Slots]:
    """Lock all of these free lists, never waiting for one while another is held, and return them.

    A thread that holds one may need another: garbage collection ends leases and pools in whatever
    code it interrupts.
    """
    while True:
        held: list[Slots] = []
        for slots in every:
            if not slots.lock.acquire(blocking=not held):
                break
            held.append(slots)
        else:
            return held
        for each in held:
            each.lock.release()
        every = [slots, *(each for each in every if each is not slots)]


def _after_fork_in_parent() -> None:
    for slots in _forking.locked:
        slots.lock.release()
    del _forking.locked  # it would keep the arenas


def _after_fork_in_child() -> None:
    for slots in all_slots.all():
        slots.lock = threading.RLock()
    del _forking.locked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
