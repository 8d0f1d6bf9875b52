"""Who may use which slot: the consumer's free list and leases.

Runs in: consumer.
Takes: requests for a slot to fill, and slots whose content was read or is not wanted.
Gives: slots to workers, by a flag each; and leases: NumPy views whose lifetime is the batch's
hold on its slot.

A slot is always in exactly one state (``validate`` checks it, ``statistics`` counts them):

    fresh ──▶ granted ──returned──▶ in hand ──lease──▶ leased ──last view dropped──▶ granted
    free ───▶ granted                  └────────────────release────────────────────▶ granted

    leased ──last view dropped while a forked child may look──▶ quarantined ──it ended──▶ granted
    granted ──the worker died or has no task (revoke)──▶ free
    any of these that is not needed ──its pages go back──▶ fresh

A fresh slot has no pages, a free one has. When no worker is left the slots are *parked*: what would
be granted becomes free. Slots that were *abandoned* are left as they are and are never used again.

A worker writes only to slots that are granted to it; the consumer reads one that came back. A slot
that is not needed any more is granted again at once, to the worker that wrote it, whether or not
that worker has a task: so it finds pages it knows. Slots *rest* when no worker is left: none is
granted, and those that come free keep their pages only as far as they may.

Guarantees:
    - a slot is never granted while anything views it: a tensor, an array, an autograd graph;
    - what a forked child may still see is not reused (``memory.forks``);
    - the slots in use never hold more than the limit; those that only a burst needed give their
      pages back;
    - only the process that made it changes anything: a forked child's copy is inert.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import NamedTuple

from fastload._memory.arena import Arena, Bytes
from fastload._memory.granted import ANYBODY
from fastload._memory.share_memory import follow_sharing, release_unused
from fastload._memory.weak_set import WeakSet

SPARE_GRANTS = 2
"""Slots a worker may have beside one for each of its tasks, before their memory is given back."""

LARGE_BYTES = 1 << 26
"""From a batch of this size on, no worker has a slot to spare: what is not needed is memory."""

MOST_HELD = 2
"""Batches that a training loop has at a time; what an epoch needs beside one a task."""


class _Hold(weakref.ref[Bytes]):
    """Notices when the last view of a leased slot is gone."""

    __slots__ = ("slot", "worker")

    slot: int
    worker: int


class SlotStatistics(NamedTuple):
    """How many slots are in which state."""

    fresh: int
    free: int
    granted: tuple[int, ...]
    in_hand: int
    leased: int
    quarantined: int
    is_parked: bool
    is_abandoned: bool


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
        is_keepable: bool = False,
    ) -> None:
        """``limits_all`` says that the limit is for all loaders of the process together.

        ``is_keepable``: whether other workers may use them when these have ended.
        """
        self.arena = arena
        self.owner = os.getpid()
        self.is_keepable = is_keepable
        self.is_torn = False
        self.tenants: WeakSet[object] = WeakSet()
        self._most_leases = most_leases
        self._limits_all = limits_all
        self._largest_bytes = 0
        self.begin(arena.workers, most_tasks, limit_bytes)
        # Views may be dropped in any thread, also by the garbage collector inside a method here.
        self.lock = threading.RLock()
        self._fresh = list(range(arena.slots - 1, -1, -1))
        self._free: list[int] = []
        # The last one of each is for ANYBODY, whose number is -1 and whose flags nobody needs.
        self._flags = [arena.flags(worker) for worker in range(arena.workers)]
        self._flags.append(memoryview(bytearray(arena.slots)))
        self._granted: list[set[int]] = [set() for _ in range(arena.workers + 1)]
        self._wanted = [0] * (arena.workers + 1)
        self._in_hand: set[int] = set()
        self._leased: dict[int, _Hold] = {}
        self._watchers: dict[int, set[object]] = {}
        self._released_while_watched: dict[int, int] = {}
        follow_sharing()
        all_slots.add(self)

    def begin(self, workers: int, most_tasks: int, limit_bytes: int) -> None:
        """Workers begin, on slots that are new or that rested."""
        self._most_tasks = most_tasks
        self._most_granted = most_tasks // workers + SPARE_GRANTS
        self._limit_bytes = limit_bytes
        self._most_resting: int | None = None

    def park(self, most_bytes: int = 0) -> None:
        """No worker is left: take back all slots, and free their pages.

        Args:
            most_bytes: So much may stay, but not more slots than an epoch usually needs. Batches
                that somebody has stay as they are.
        """
        if self.owner != os.getpid():
            return
        with self.lock:
            fit = most_bytes // self._largest_bytes if self._largest_bytes else 0
            self._most_resting = min(fit, self._most_tasks + MOST_HELD)
            for worker in (*range(self.arena.workers), ANYBODY):
                self.revoke(worker)
            if not self.is_torn:
                self._in_hand.clear()
                kept = {*self._fresh, *self._leased, *self._released_while_watched, *self._free}
                self._free += set(range(self.arena.slots)) - kept
            while len(self._free) > self._most_resting:
                self._free_slot(self._free.pop(0))

    def abandon(self) -> None:
        """A call of the consumer's was interrupted half-way, and goes on: leave what it may have.

        The slots are of no use any more; their memory goes with the last view of it.
        """
        self.is_torn, self.is_keepable = True, False

    def _free_slot(self, slot: int) -> None:
        self.arena.give_back_pages(slot)
        self._fresh.append(slot)

    def provide(self, worker: int, tasks: int) -> bool:
        """See to it that a worker has a slot for each of its tasks; False if there are too few."""
        granted = self._granted[worker]
        self._wanted[worker] = tasks
        if len(granted) >= tasks:
            return True
        with self.lock:
            while len(granted) < tasks:
                slot = self._take()
                if slot is None:
                    return False
                self._grant(slot, worker)
        return True

    def reserve(self) -> int | None:
        """Grant a slot for a task that any worker may carry out; None if there is none.

        It is one task's until it is ``returned``, and never granted again by itself.
        """
        with self.lock:
            slot = self._take()
            if slot is not None:
                self._grant(slot, ANYBODY)
            return slot

    def _grant(self, slot: int, worker: int) -> None:
        self._granted[worker].add(slot)
        if worker != ANYBODY:
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
            others = [slots.held_bytes() for slots in all_slots.all() if slots is not self]
            if any(others) and not used_bytes:
                used_bytes = self.arena.stride_bytes
            used_bytes += sum(others)
        return used_bytes <= self._limit_bytes

    def held_bytes(self) -> int:
        """The most memory that slots in use can hold, to judge by the largest batch so far."""
        return (self.arena.slots - len(self._fresh)) * self._largest_bytes

    @property
    def quarantined_count(self) -> int:
        """How many slots are out of use because a forked child may look at them."""
        return len(self._watchers)

    def returned(self, slot: int, worker: int) -> None:
        """The worker does not write to this slot any more."""
        with self.lock:
            self._granted[worker].remove(slot)
            self._wanted[worker] -= 1
            self._in_hand.add(slot)

    def revoke(self, worker: int) -> None:
        """Free what is granted to a worker that is dead, or that has no task."""
        with self.lock:
            granted = self._granted[worker]
            while granted:  # a batch that is dropped meanwhile may add to them
                slot = granted.pop()
                self._flags[worker][slot] = 0
                self._free.append(slot)

    def release(self, slot: int, worker: int) -> None:
        """Grant a slot that is in hand and that nobody views to its worker again.

        If that worker has enough of them, its memory goes back to the system. Without effect on a
        slot that was taken back since, because no worker is left.
        """
        if self.owner != os.getpid():
            return
        with self.lock:
            if slot in self._in_hand:
                self._in_hand.remove(slot)
                self.regrant_or_free(slot, worker)

    def regrant_or_free(self, slot: int, worker: int) -> None:
        if self._most_resting is not None:
            if len(self._free) < self._most_resting:
                self._free.append(slot)
                return
        elif worker == ANYBODY:
            if (
                len(self._free) < self._most_tasks + MOST_HELD
                and self.held_bytes() <= self._limit_bytes
            ):
                self._free.append(slot)
                return
        elif (
            len(self._granted[worker]) < self._most_granted_to(worker)
            and self.held_bytes() <= self._limit_bytes
        ):
            self._grant(slot, worker)
            return
        self._free_slot(slot)

    def _most_granted_to(self, worker: int) -> int:
        """How many slots a worker may have: of large ones, only as many as it has tasks."""
        is_large = self._largest_bytes >= LARGE_BYTES
        return self._wanted[worker] if is_large else self._most_granted

    def may_lease(self) -> bool:
        """Whether one more batch may stay in its slot and leave enough for the workers."""
        held = len(self._leased) + len(self._released_while_watched)
        return held < self._most_leases and (
            held < 2 or (held + 1 + self._most_tasks) * self._largest_bytes <= self._limit_bytes
        )

    def lease(self, slot: int, worker: int, used_bytes: int) -> Bytes | None:
        """Hand out the view through which all of a batch's leaves must see the slot.

        None: too many batches are held; this one stays in hand, to be copied and given back.
        """
        if used_bytes > self._largest_bytes:  # noqa: PLR1730  (a call of max a batch)
            self._largest_bytes = used_bytes
        if not self.may_lease():
            return None
        with self.lock:
            self._in_hand.remove(slot)
            view = self.arena.slot(slot)
            hold = _Hold(view, self._released)
            hold.slot = slot
            hold.worker = worker
            self._leased[slot] = hold
            return view

    def _released(self, hold: _Hold) -> None:
        if self.owner != os.getpid():
            return
        with self.lock:
            if self._leased.pop(hold.slot, None) is None:
                return
            if hold.slot in self._watchers:
                self._released_while_watched[hold.slot] = hold.worker
            else:
                self.regrant_or_free(hold.slot, hold.worker)

    def statistics(self) -> SlotStatistics:
        """How many slots are in which state now, for reports of hangs."""
        with self.lock:
            return SlotStatistics(
                len(self._fresh),
                len(self._free),
                tuple(map(len, self._granted)),
                len(self._in_hand),
                len(self._leased),
                len(self._released_while_watched),
                self._most_resting is not None,
                self.is_torn,
            )

    def validate(self) -> None:
        """Check that each slot is in exactly one state, and that workers see what is granted.

        Raises:
            AssertionError: It is not so.
        """
        with self.lock:
            granted = [slot for each in self._granted for slot in each]
            held = [*self._in_hand, *self._leased, *self._released_while_watched]
            every = [*self._fresh, *self._free, *granted, *held]
            assert len(set(every)) == len(every), f"a slot is in two states: {sorted(every)}"
            assert self.is_torn or len(every) == self.arena.slots, f"slots are lost: {every}"
            for worker, flags in enumerate(self._flags):
                seen = {slot for slot, flag in enumerate(bytes(flags)) if flag}
                assert seen <= self._granted[worker], f"worker {worker} may write to {seen}"
            assert self._released_while_watched.keys() <= self._watchers.keys()

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
                    if worker is not None and self.owner == os.getpid():
                        self.regrant_or_free(slot, worker)


all_slots: WeakSet[Slots] = WeakSet()
"""Those of all pools of this process."""
