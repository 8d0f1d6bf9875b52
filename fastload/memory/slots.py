"""Who may use which slot: the consumer's free list, leases and quarantine.

Runs in: consumer.
Takes: requests for a slot to fill, and slots whose content is read or was never written.
Gives: slot numbers, and leases: NumPy views whose lifetime is the batch's hold on its slot.

A slot is always in exactly one state:

    free ──grant──▶ granted ──come_back──▶ in hand ──lease──▶ leased ──last view dropped──▶ free
                                              └────────────give_back─────────────────────▶ free

A worker writes only to slots that were granted to it; the consumer reads one that came back.

Guarantees:
    - a slot is never handed out while anything views it: a tensor, an array, an autograd graph;
    - a slot goes back to the worker that used it last, most recently used first: that worker's
      page tables and caches know its pages already;
    - what a forked child may still see is not reused: leased slots are quarantined at each fork,
      until the children are gone (our own workers) or for good (any other fork);
    - what torch moves away from under an alias (``share_memory_``, a queue) is never reused.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fastload.internals import storage_use_count
from fastload.memory.arena import Arena, Bytes


class _Hold(weakref.ref[Bytes]):
    """Notices when the last view of a leased slot is gone."""

    __slots__ = ("slot", "worker")

    slot: int
    worker: int


class Slots:
    """The free list of one arena; only the consumer has one."""

    def __init__(
        self, arena: Arena, workers: int, most_tasks: int, most_leases: int, limit_bytes: int
    ) -> None:
        self.arena = arena
        self.used_bytes = [0] * arena.slots
        self._most_tasks = most_tasks
        self._most_leases = most_leases
        self._limit_bytes = limit_bytes
        self._largest_bytes = 0
        self._fresh = list(range(arena.slots - 1, -1, -1))
        self._free: list[list[int]] = [[] for _ in range(workers)]
        self._granted: list[set[int]] = [set() for _ in range(workers)]
        self._leased: dict[int, _Hold] = {}
        self._watchers: dict[int, set[object]] = {}
        self._released_while_watched: dict[int, int] = {}
        _follow_sharing()
        _all_slots.add(self)

    def grant(self, worker: int) -> int | None:
        """A slot for this worker to write to, or None if every slot is held somewhere."""
        slot = self._take(worker)
        if slot is not None:
            self._granted[worker].add(slot)
        return slot

    def come_back(self, slot: int, worker: int) -> None:
        """The worker does not write to this slot any more."""
        self._granted[worker].remove(slot)

    def reclaim(self, worker: int) -> None:
        """Free what was granted to a worker that is dead."""
        self._free[worker] += self._granted[worker]
        self._granted[worker].clear()

    def _take(self, worker: int) -> int | None:
        own = self._free[worker]
        if own:
            return own.pop()
        if self._fresh:
            return self._fresh.pop()
        for stack in self._free:
            if stack:
                return stack.pop(0)
        return None

    def give_back(self, slot: int, worker: int) -> None:
        """Free a slot that is in hand and that nobody views."""
        self._free[worker].append(slot)

    def may_lease(self) -> bool:
        """Whether one more batch may stay in its slot and leave enough for the workers."""
        held = len(self._leased) + len(self._released_while_watched)
        return held < self._most_leases and (
            (held + 1 + self._most_tasks) * self._largest_bytes <= self._limit_bytes or held < 2
        )

    def note_use(self, slot: int, used_bytes: int) -> None:
        """A batch of this size was written into a slot."""
        self.used_bytes[slot] = max(self.used_bytes[slot], used_bytes)
        self._largest_bytes = max(self._largest_bytes, used_bytes)

    def lease(self, slot: int, worker: int) -> Bytes:
        """Hand out the view through which all of a batch's leaves must see the slot."""
        view = self.arena.slot(slot)
        hold = _Hold(view, self._released)
        hold.slot = slot
        hold.worker = worker
        self._leased[slot] = hold
        return view

    def _released(self, hold: _Hold) -> None:
        """Runs in whatever thread drops the last view, so every step is one atomic operation."""
        if self._leased.pop(hold.slot, None) is None:
            return
        if hold.slot in self._watchers:
            self._released_while_watched[hold.slot] = hold.worker
        else:
            self._free[hold.worker].append(hold.slot)

    def quarantine(self, watcher: object) -> None:
        """Keep the slots that are leased now out of use while ``watcher`` may see them."""
        for slot in tuple(self._leased):
            self._watchers.setdefault(slot, set()).add(watcher)

    def end_quarantine(self, watcher: object) -> None:
        """Put slots back into use that nobody but ``watcher`` still kept out of it."""
        for slot, watchers in tuple(self._watchers.items()):
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[slot]
                worker = self._released_while_watched.pop(slot, None)
                if worker is not None:
                    self._free[worker].append(slot)

    def withdraw(self, slot: int) -> None:
        """Never use a slot again, and never unmap it: an alias that nobody counts points to it."""
        if self._leased.pop(slot, None) is not None:
            _withdrawn.append(self.arena.bytes)


_all_slots: weakref.WeakSet[Slots] = weakref.WeakSet()
_withdrawn: list[Bytes] = []
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


def _after_fork() -> None:
    watcher = getattr(_forking, "watcher", _FOREIGN_FORK)
    for slots in tuple(_all_slots):
        slots.quarantine(watcher)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_after_fork)

_LONE_USES = 2
"""Uses of a storage that is being shared: the tensor and the Python object that shares it."""


def _follow_sharing() -> None:
    """Learn when torch swaps the memory of a storage for shared memory of its own.

    ``share_memory_()`` and a queue do that in place: the lease ends, while an older ``.numpy()``
    of the tensor still points into the slot. If the storage has any other user, its slot is
    withdrawn. torch's workers don't need this, since their batches are shared already.
    """
    for name in ("_share_fd_cpu_", "_share_filename_cpu_"):
        original = getattr(torch.UntypedStorage, name)
        if not hasattr(original, "_fastload_original"):
            setattr(torch.UntypedStorage, name, _watched(original))


def _watched(original: Callable[..., Any]) -> Callable[..., Any]:
    def share(storage: torch.UntypedStorage, *args: Any, **kwargs: Any) -> Any:
        if storage_use_count(storage._cdata) > _LONE_USES:
            address = storage.data_ptr()
            for slots in tuple(_all_slots):
                slot = slots.arena.slot_of(address)
                if slot is not None:
                    slots.withdraw(slot)
        return original(storage, *args, **kwargs)

    share._fastload_original = original  # type: ignore[attr-defined]
    return share
