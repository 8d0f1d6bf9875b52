"""Who may use which slot: the consumer's free list, leases and quarantine.

Runs in: consumer.
Takes: requests for a slot to fill, and slots whose content was read or is not wanted.
Gives: slots to workers, by a flag each; and leases: NumPy views whose lifetime is the batch's
hold on its slot.

A slot is always in exactly one state:

    free ──grant──▶ granted ──come_back──▶ in hand ──lease──▶ leased ──last view dropped──▶ granted
                                              └────────────give_back─────────────────────▶ granted

A worker writes only to slots that are granted to it; the consumer reads one that came back. A slot
that is not needed any more is granted again at once, to the worker that wrote it, whether or not
that worker has a task: so it finds pages it knows.

Guarantees:
    - a slot is never granted while anything views it: a tensor, an array, an autograd graph;
    - what a forked child may still see is not reused: slots leased at a fork are quarantined
      until the children are gone (our own workers) or for good (any other fork);
    - the slots in use never hold more than the limit; those that only a burst needed give their
      pages back, and all do at the end;
    - only the process that made it changes anything: a forked child's copy is inert.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator

from fastload.memory.arena import Arena, Bytes
from fastload.memory.sharing import find_owners_with, follow_sharing, release_unused

SPARE_GRANTS = 2
"""Slots a worker may have beside one for each of its tasks, before their memory is given back."""


class _Hold(weakref.ref[Bytes]):
    """Notices when the last view of a leased slot is gone."""

    __slots__ = ("slot", "worker")

    slot: int
    worker: int


class Slots:
    """The free list of one arena; only the consumer has one."""

    def __init__(
        self,
        arena: Arena,
        most_tasks: int,
        most_leases: int,
        limit_bytes: int,
        *,
        limits_all: bool = False,
    ) -> None:
        """``limits_all`` says that the limit is for all loaders of the process together."""
        self.arena = arena
        self._owner = os.getpid()
        self._most_tasks = most_tasks
        self._most_leases = most_leases
        self._most_granted = most_tasks // arena.workers + SPARE_GRANTS
        self._limit_bytes = limit_bytes
        self._limits_all = limits_all
        self._largest_bytes = 0
        self._is_retired = False
        # Views may be dropped in any thread, also by the garbage collector inside a method here.
        self.lock = threading.RLock()
        self._fresh = list(range(arena.slots - 1, -1, -1))
        self._free: list[int] = []
        self._flags = [arena.flags(worker) for worker in range(arena.workers)]
        self._granted: list[set[int]] = [set() for _ in range(arena.workers)]
        self._leased: dict[int, _Hold] = {}
        self._watchers: dict[int, set[object]] = {}
        self._released_while_watched: dict[int, int] = {}
        follow_sharing()
        _all_slots.add(self)

    def provide(self, worker: int, tasks: int) -> bool:
        """See to it that a worker has a slot for each of its tasks; False if there are too few."""
        with self.lock:
            while len(self._granted[worker]) < tasks:
                slot = self._take()
                if slot is None:
                    return False
                self._grant(slot, worker)
        return True

    def _grant(self, slot: int, worker: int) -> None:
        self._granted[worker].add(slot)
        self._flags[worker][slot] = 1

    def _take(self) -> int | None:
        release_unused()
        if self._free:  # mapping pages that exist is cheap, and done once; new ones cost memory
            return self._free.pop()
        if self._fresh and self._may_grow():
            return self._fresh.pop()
        return None

    def _may_grow(self) -> bool:
        """Whether one slot more may be written to."""
        used_bytes = (self.arena.slots - len(self._fresh) + 1) * self._largest_bytes
        if self._limits_all:
            others = [slots.held_bytes() for slots in tuple(_all_slots) if slots is not self]
            if any(others) and not used_bytes:
                used_bytes = self.arena.stride_bytes
            used_bytes += sum(others)
        return used_bytes <= self._limit_bytes

    def held_bytes(self) -> int:
        """The most memory that slots in use can hold, to judge by the largest batch so far."""
        in_use = self._held if self._is_retired else self.arena.slots - len(self._fresh)
        return in_use * self._largest_bytes

    @property
    def _held(self) -> int:
        """Slots of batches that somebody has, or that a forked child may still look at."""
        return len(self._leased) + len(self._released_while_watched)

    def come_back(self, slot: int, worker: int) -> None:
        """The worker does not write to this slot any more."""
        with self.lock:
            self._granted[worker].remove(slot)

    def reclaim(self, worker: int) -> None:
        """Free what is granted to a worker that is dead, or that has no task."""
        with self.lock:
            for slot in self._granted[worker]:
                self._flags[worker][slot] = 0
            self._free += self._granted[worker]
            self._granted[worker].clear()

    def give_back(self, slot: int, worker: int) -> None:
        """Grant a slot that is in hand and that nobody views to its worker again.

        If that worker has enough of them, its memory goes back to the system.
        """
        if self._owner != os.getpid():
            return
        with self.lock:
            if self._is_retired:
                self.arena.give_back_pages(slot)
            elif self._has_use_for_one_more(worker):
                self._grant(slot, worker)
            else:
                self.arena.give_back_pages(slot)
                self._fresh.append(slot)

    def _has_use_for_one_more(self, worker: int) -> bool:
        return (
            len(self._granted[worker]) < self._most_granted
            and self.held_bytes() <= self._limit_bytes
        )

    def note_use(self, used_bytes: int) -> None:
        """A batch of this size was written into a slot."""
        self._largest_bytes = max(self._largest_bytes, used_bytes)

    def may_lease(self) -> bool:
        """Whether one more batch may stay in its slot and leave enough for the workers."""
        held = self._held
        return held < self._most_leases and (
            (held + 1 + self._most_tasks) * self._largest_bytes <= self._limit_bytes or held < 2
        )

    def lease(self, slot: int, worker: int) -> Bytes:
        """Hand out the view through which all of a batch's leaves must see the slot."""
        with self.lock:
            view = self.arena.slot(slot)
            hold = _Hold(view, self._released)
            hold.slot = slot
            hold.worker = worker
            self._leased[slot] = hold
            return view

    def _released(self, hold: _Hold) -> None:
        with self.lock:
            if self._leased.pop(hold.slot, None) is None:
                return
            if hold.slot in self._watchers:
                self._released_while_watched[hold.slot] = hold.worker
            else:
                self.give_back(hold.slot, hold.worker)

    def view_at(self, address: int) -> Bytes | None:
        """The view of the leased slot in which an address lies."""
        slot = self.arena.slot_of(address)
        hold = None if slot is None else self._leased.get(slot)
        return None if hold is None else hold()

    def quarantine(self, watcher: object) -> None:
        """Keep the slots that are leased now out of use while ``watcher`` may see them."""
        with self.lock:
            for slot in tuple(self._leased):  # the garbage collector may end a lease meanwhile
                self._watchers.setdefault(slot, set()).add(watcher)

    def end_quarantine(self, watcher: object) -> None:
        """Put slots back into use that nobody but ``watcher`` still kept out of it."""
        with self.lock:
            for slot, watchers in tuple(self._watchers.items()):
                watchers.discard(watcher)
                if not watchers:
                    del self._watchers[slot]
                    worker = self._released_while_watched.pop(slot, None)
                    if worker is not None:
                        self.give_back(slot, worker)

    def retire(self) -> None:
        """No worker is left: return the pages of all slots, of leased ones once they are free."""
        with self.lock:
            self._is_retired = True
            kept = {*self._fresh, *self._leased, *self._released_while_watched}
            for slot in set(range(self.arena.slots)) - kept:
                self.arena.give_back_pages(slot)


_all_slots: weakref.WeakSet[Slots] = weakref.WeakSet()
_forking = threading.local()
_FOREIGN_FORK = object()


@contextlib.contextmanager
def forking_workers(watcher: object) -> Iterator[None]:
    """Mark forks of this thread as our own: they end with ``watcher``, so does the quarantine."""
    _forking.watcher = watcher
    try:
        yield
    finally:
        del _forking.watcher


def workers_gone(watcher: object) -> None:
    """Tell every free list that the processes behind ``watcher`` have ended."""
    for slots in tuple(_all_slots):
        slots.end_quarantine(watcher)


def _view_at(address: int) -> Bytes | None:
    for slots in tuple(_all_slots):
        view = slots.view_at(address)
        if view is not None:
            return view
    return None


find_owners_with(_view_at)


def _before_fork() -> None:
    """No lease begins or ends during a fork, in any thread; what the child will see is kept."""
    watcher = getattr(_forking, "watcher", _FOREIGN_FORK)
    _forking.locked = tuple(_all_slots)
    for slots in _forking.locked:
        slots.lock.acquire()
        slots.quarantine(watcher)


def _after_fork_in_parent() -> None:
    for slots in _forking.locked:
        slots.lock.release()
    del _forking.locked  # it would keep the arenas


def _after_fork_in_child() -> None:
    for slots in _forking.locked:
        slots.lock = threading.RLock()
    del _forking.locked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
