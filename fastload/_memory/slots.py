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

A fresh slot has no pages, a free one has. When no worker is left the slots are *parked*: none is
granted, and what would be granted becomes free, as far as its pages may be kept. Slots that were
*abandoned* are left as they are and are never used again.

*In hand* is a state of the slot and no second record of what has arrived. A mailbox
(``fastload._pool.tasks``) says which report waits for its run; the slot is in hand from the report
on until it is leased or released, also while its batch is copied, and while a report that nobody
wants is dropped. Without the state, ``validate`` could not tell a slot in hand from a lost one, and
a ``release`` that comes after the slots were parked would free a slot that is free already.

A worker writes only to slots that are granted to it; the consumer reads one that came back. A slot
that is not needed any more is granted again at once, to the worker that wrote it, whether or not
that worker has a task: so it finds pages it knows.

Guarantees:
    - a slot is never granted while anything views it: a tensor, an array, an autograd graph;
    - what a forked child may still see is not reused (``fastload._memory.forks``);
    - the slots in use never hold more than the limit; those that only a burst needed give their
      pages back;
    - only the process that made it changes anything: a forked child's copy is inert.

The end of a lease, and exceptions from outside (``fastload._system.interruptions``): Python prints
what is raised inside a weak reference's callback and goes on, so an exception that a signal handler
raises there is lost, a Ctrl-C for one. So the usual lease ends with one call into C, which sets the
worker's flag and in which no handler runs; the next call of any method here notes it. Where a
training loop holds more batches than usual, that call does all of it. Two kinds of leases end in a
function of ours (``_released``), because the next call may be far off and memory should be free at
once: those of large batches, and those that outlive the workers. An exception from outside that
comes in exactly these microseconds is lost; it may cost that slot until the workers end, and never
a batch.
"""

from __future__ import annotations

import operator
import os
import sys
import threading
import weakref
from collections.abc import Callable
from itertools import repeat
from typing import Any, NamedTuple

from fastload._memory.arena import Arena, Bytes
from fastload._memory.granted import ANYBODY
from fastload._memory.share_memory import follow_sharing, release_unused
from fastload._memory.weak_set import WeakSet
from fastload._system.interruptions import in_c

SPARE_GRANTS = 2
"""A worker may have so many slots beyond one a task before their memory is given back."""

LARGE_BYTES = 1 << 26
"""From a batch of this size on, no worker has a slot to spare: what is not needed is memory.

One slot that is free keeps its pages, for the next task: making them anew takes as long as loading.
"""

MOST_HELD = 2
"""A training loop has so many batches at a time; an epoch needs as many slots beside one a task."""


class _Hold(weakref.ref[Bytes]):
    """A lease: dead once the last view of the slot is gone.

    Attributes:
        slot: The slot.
        worker: Who wrote it.
        is_granting: With its end the slot is granted to that worker, in C.
    """

    __slots__ = ("is_granting", "slot", "worker")

    slot: int
    worker: int
    is_granting: bool


class SlotStatistics(NamedTuple):
    """Says how many slots are in which state.

    Attributes:
        fresh: Slots without pages.
        free: Slots with pages that are granted to nobody.
        granted: For each worker, how many slots it may write to.
        reserved: Slots of tasks that any worker may carry out.
        in_hand: Slots whose batch has arrived and was neither delivered nor dropped.
        leased: Slots whose batch the program holds.
        quarantined: Slots whose batch is gone, but which a forked child may still read.
        is_parked: Whether no worker is left that could write.
        is_abandoned: Whether a call was interrupted, so that the slots are never used again.
    """

    fresh: int
    free: int
    granted: tuple[int, ...]
    reserved: int
    in_hand: int
    leased: int
    quarantined: int
    is_parked: bool
    is_abandoned: bool


class Slots:
    """The free list of one arena; only the consumer has one, and any thread of it may use it.

    Args:
        arena: The memory.
        most_tasks: How many tasks of all workers may be on their way at once.
        most_leases: How many batches may stay in their slots while the program holds them.
        limit_bytes: The most memory that slots in use may hold.
        limits_all: Whether that limit is for all loaders of the process together.
        is_keepable: Whether other workers may use the slots when these have ended.

    Attributes:
        is_copying: Batches are copied and not leased, because workers are still to be forked: what
            one of them may see of a leased batch could not be used again before it ends.
    """

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
        self.arena = arena
        self.owner = os.getpid()
        self.is_keepable = is_keepable
        self.is_torn = False
        self.is_copying = False
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
        self._ended: list[None] = []  # one for each lease that has ended and may not be noted yet
        self._noting = in_c(self._ended.append, repeat(None))
        self._granting: dict[tuple[int, int], Callable[[Any], object]] = {}
        self._watchers: dict[int, set[object]] = {}
        self._released_while_watched: dict[int, int] = {}
        follow_sharing()
        all_slots.add(self)

    def begin(self, workers: int, most_tasks: int, limit_bytes: int) -> None:
        """Prepare slots, which are new or were parked, for workers that begin to use them."""
        self._most_tasks = most_tasks
        self._most_granted = most_tasks // workers + SPARE_GRANTS
        self._limit_bytes = limit_bytes
        self._most_parked: int | None = None

    def park(self, most_bytes: int = 0) -> None:
        """Take back all slots, because no worker is left, and free their pages.

        Args:
            most_bytes: So much may stay, but not more slots than an epoch usually needs. Batches
                that somebody has stay as they are.
        """
        if self.owner != os.getpid():
            return
        with self.lock:
            fit = most_bytes // self._largest_bytes if self._largest_bytes else 0
            self._most_parked = min(fit, self._most_tasks + MOST_HELD)
            for slot in tuple(self._leased):
                self._follow_anew(slot)
            self._take_dropped()
            for worker in (*range(self.arena.workers), ANYBODY):
                self.revoke(worker)
            if not self.is_torn:
                # Nobody will ask for what is in hand. Whatever is in no other record is free then:
                # an interruption may have left a slot between two of them.
                self._in_hand.clear()
                kept = {*self._fresh, *self._leased, *self._released_while_watched, *self._free}
                self._free += set(range(self.arena.slots)) - kept
            while len(self._free) > self._most_parked:
                self._free_slot(self._free.pop(0))

    def abandon(self) -> None:
        """Leave the slots as they are: a call that was interrupted half-way may still use some.

        They are never used again; their memory goes with the last view of it.
        """
        self.is_torn, self.is_keepable = True, False

    def _free_slot(self, slot: int) -> None:
        self.arena.give_back_pages(slot)
        self._fresh.append(slot)

    def provide(self, worker: int, tasks: int) -> bool:
        """Grant a worker a slot for each of its tasks; return False if there are too few."""
        granted = self._granted[worker]
        self._wanted[worker] = tasks
        if len(granted) >= tasks:
            return True
        with self.lock:
            self._take_dropped()
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
            self._take_dropped()
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
        """Return whether one slot more may be written to without exceeding the limit."""
        used_bytes = (self.arena.slots - len(self._fresh) + 1) * self._largest_bytes
        if self._limits_all:
            # Before its first batch this loader knows no size: beside others it counts a stride.
            others = [slots.held_bytes() for slots in all_slots.all() if slots is not self]
            if any(others) and not used_bytes:
                used_bytes = self.arena.stride_bytes
            used_bytes += sum(others)
        return used_bytes <= self._limit_bytes

    def held_bytes(self) -> int:
        """Return the most bytes that slots in use can hold, judging by the largest batch so far."""
        return (self.arena.slots - len(self._fresh)) * self._largest_bytes

    @property
    def largest_bytes(self) -> int:
        """The size of the largest batch so far; 0 before the first."""
        return self._largest_bytes

    @property
    def is_large(self) -> bool:
        """Whether batches are so large that as few slots as possible are used."""
        return self._largest_bytes >= LARGE_BYTES

    @property
    def quarantined_count(self) -> int:
        """Return how many slots a forked child may still read, leased ones included."""
        return len(self._watchers)

    def returned(self, slot: int, worker: int) -> None:
        """Note that the worker has reported this slot and does not write to it any more."""
        with self.lock:
            self._take_dropped()
            self._granted[worker].remove(slot)
            self._wanted[worker] -= 1
            self._in_hand.add(slot)

    def revoke(self, worker: int) -> None:
        """Free what is granted to a worker that is dead or has no task."""
        with self.lock:
            self._take_dropped()
            granted = self._granted[worker]
            while granted:
                slot = granted.pop()
                self._flags[worker][slot] = 0
                self._free.append(slot)
                self._take_dropped()  # a batch that is dropped meanwhile adds to them

    def release(self, slot: int, worker: int) -> None:
        """Take a slot that is in hand and that nobody views, and grant it to its worker again.

        If that worker has enough slots, the memory goes back to the system. There is no effect on a
        slot that was taken back since, because no worker is left.
        """
        if self.owner != os.getpid():
            return
        with self.lock:
            if slot in self._in_hand:
                self._in_hand.remove(slot)
                self.regrant_or_free(slot, worker)

    def regrant_or_free(self, slot: int, worker: int) -> None:
        if self._most_parked is not None:
            if len(self._free) < self._most_parked:
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
        elif self.is_large and not self._free and self.held_bytes() <= self._limit_bytes:
            self._free.append(slot)
            return
        self._free_slot(slot)

    def _most_granted_to(self, worker: int) -> int:
        """Return how many slots a worker may have: of large ones, only as many as it has tasks."""
        return self._wanted[worker] if self.is_large else self._most_granted

    def may_lease(self) -> bool:
        """Return whether one more batch may stay in its slot and leave enough for the workers."""
        if self._ended:
            with self.lock:
                self._take_dropped()
        held = len(self._leased) + len(self._released_while_watched)
        return (
            not self.is_copying
            and held < self._most_leases
            and (
                held < 2 or (held + 1 + self._most_tasks) * self._largest_bytes <= self._limit_bytes
            )
        )

    def lease(self, slot: int, worker: int, used_bytes: int) -> Bytes | None:
        """Return the view through which all leaves of a batch must see its slot, which is in hand.

        Return None if too many batches are held; the slot then stays in hand, and the batch is to
        be copied and the slot released.
        """
        if used_bytes > self._largest_bytes:  # noqa: PLR1730  (a call of max a batch)
            self._largest_bytes = used_bytes
        if not self.may_lease():
            return None
        with self.lock:
            self._in_hand.remove(slot)
            view = self.arena.slot(slot)
            self._follow(view, slot, worker)
            return view

    def _follow_anew(self, slot: int) -> None:
        """Choose again what the end of a lease does; without effect on one that has ended."""
        hold = self._leased.get(slot)  # the garbage collector may end one meanwhile
        if hold is not None and (view := hold()) is not None:
            worker = hold.worker
            del hold  # or the view would still have it
            self._follow(view, slot, worker)

    def _follow(self, view: Bytes, slot: int, worker: int) -> None:
        """Hold a slot for as long as this view of it is alive."""
        is_granting = False
        if self._largest_bytes >= LARGE_BYTES or self._most_parked is not None:
            ending: Callable[[Any], object] = self._released
        elif self._may_grant_at_end(slot, worker):
            is_granting = True
            ending = self._granting.get((slot, worker)) or self._make_granting(slot, worker)
        else:
            ending = self._noting
        hold = _Hold(view, ending)
        hold.slot, hold.worker, hold.is_granting = slot, worker, is_granting
        self._leased[slot] = hold

    def _make_granting(self, slot: int, worker: int) -> Callable[[Any], object]:
        """What grants a slot and notes the end of its lease, in C."""
        flags: Any = self._flags[worker]
        grant = map(operator.setitem, repeat(flags), repeat(slot), repeat(1))
        ending = in_c(self._ended.append, grant)  # setitem returns None
        self._granting[slot, worker] = ending
        return ending

    def _may_grant_at_end(self, slot: int, worker: int) -> bool:
        """Whether a slot will be granted without a look at how things are then.

        Not where the batch is one of many that are held, or a forked child may see it.
        """
        return (
            worker != ANYBODY
            and len(self._leased) < MOST_HELD
            and len(self._granted[worker]) < self._most_granted
            and slot not in self._watchers
            and self.held_bytes() <= self._limit_bytes
        )

    def _take_dropped(self) -> None:
        """Note which leases have ended since the last call; to be called with the lock."""
        ended = len(self._ended)
        if not ended and self._largest_bytes < LARGE_BYTES and self._most_parked is None:
            return
        for hold in tuple(self._leased.values()):
            if hold() is None:
                self._released(hold)
        del self._ended[:ended]

    def _released(self, hold: _Hold, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_ending() or self.owner != os.getpid():  # at the program's end modules may be gone
            return
        with self.lock:
            if self._leased.get(hold.slot) is not hold:
                return
            del self._leased[hold.slot]
            if hold.is_granting:
                self._granted[hold.worker].add(hold.slot)
            elif hold.slot in self._watchers:
                self._released_while_watched[hold.slot] = hold.worker
            else:
                self.regrant_or_free(hold.slot, hold.worker)

    def statistics(self) -> SlotStatistics:
        """Return how many slots are in which state now, for reports of hangs."""
        with self.lock:
            self._take_dropped()
            return SlotStatistics(
                len(self._fresh),
                len(self._free),
                tuple(map(len, self._granted[:ANYBODY])),
                len(self._granted[ANYBODY]),
                len(self._in_hand),
                len(self._leased),
                len(self._released_while_watched),
                self._most_parked is not None,
                self.is_torn,
            )

    def validate(self) -> None:
        """Check that each slot is in exactly one state, and that workers see what is granted.

        Raises:
            AssertionError: It is not so.
        """
        with self.lock:
            self._take_dropped()
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
        """Return the view of the leased slot in which an address lies, or None."""
        slot = self.arena.slot_of(address)
        hold = None if slot is None else self._leased.get(slot)
        return None if hold is None else hold()

    def quarantine(self, watcher: object) -> None:
        """Keep the slots that are leased now out of use while ``watcher`` may see them."""
        with self.lock:
            self._take_dropped()
            for slot in tuple(self._leased):
                self._watchers.setdefault(slot, set()).add(watcher)
                self._follow_anew(slot)

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
"""Holds the free lists of all pools of this process."""
