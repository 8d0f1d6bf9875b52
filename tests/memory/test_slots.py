"""The slot protocol: no slot is handed out while anything can see its content."""

from __future__ import annotations

import _thread
import contextlib
import functools
import gc
import os
import signal
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastload._memory import slots as slots_module
from fastload._memory.arena import Arena
from fastload._memory.forks import forking_workers, workers_gone
from fastload._memory.granted import ANYBODY, NO_SLOT, Grants
from fastload._memory.slots import Slots

WORKERS = 2
SLOTS = 6
STRIDE = 1 << 20


def make_slots() -> Slots:
    arena = Arena.create(SLOTS, STRIDE, WORKERS)
    slots = Slots(arena, most_tasks=2, most_leases=3, limit_bytes=1 << 40)
    arena.close_descriptor()
    return slots


def take(slots: Slots, worker: int) -> int:
    """The slot that a worker writes its next batch to."""
    slots.provide(worker, 1)
    return Grants(slots.arena, worker).take()


def show_size(slots: Slots, size_bytes: int) -> None:
    """Deliver one batch of this size, which nobody keeps."""
    slot = take(slots, 0)
    slots.returned(slot, 0)
    slots.lease(slot, 0, size_bytes)


def free_slots(slots: Slots) -> set[int]:
    """Every slot that can be written to now."""
    for worker in (*range(WORKERS), ANYBODY):
        slots.revoke(worker)
    slots.provide(0, SLOTS)
    return {slot for slot in range(SLOTS) if slots.arena.flags(0)[slot]}


ALIASES = {
    "tensor": lambda tensor: tensor,
    "slice": lambda tensor: tensor[2:5],
    "array": lambda tensor: tensor.numpy(),
    "slice of an array": lambda tensor: tensor.numpy()[1:4],
    "detached": lambda tensor: tensor.detach(),
    "parameter": lambda tensor: torch.nn.Parameter(tensor.double() * 0 + tensor[0].item()),
    "transposed": lambda tensor: tensor.reshape(2, 4).t(),
    "storage": lambda tensor: tensor.untyped_storage(),
    "memoryview": lambda tensor: memoryview(tensor.numpy()),
    "dlpack": lambda tensor: torch.from_dlpack(tensor),
    "numpy by dlpack": lambda tensor: np.from_dlpack(tensor),
    "graph": lambda tensor: (tensor * torch.ones(8, requires_grad=True)).sum(),
}


def stamp_of(alias) -> float:
    """The number with which the memory behind an alias was filled."""
    if isinstance(alias, torch.UntypedStorage):
        return torch.tensor(alias, dtype=torch.uint8).view(torch.float32)[0].item()
    if isinstance(alias, torch.Tensor) and alias.grad_fn is not None:
        saved = alias.grad_fn.next_functions[0][0]._saved_self
        return saved[0].item()
    return float(np.asarray(alias.detach() if isinstance(alias, torch.Tensor) else alias).flat[0])


class SlotProtocol(RuleBasedStateMachine):
    """Tasks, deliveries, views, drops and forks in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = make_slots()
        self.workers = [Grants(self.slots.arena, worker) for worker in range(WORKERS)]
        self.in_flight: list[tuple[int, int]] = []
        self.held: list[tuple[float, object]] = []
        self.stamp = 0.0
        self.watchers: list[object] = []

    @rule(worker=st.integers(0, WORKERS - 1))
    def begin_task(self, worker: int) -> None:
        self.slots.provide(worker, 1)
        slot = self.workers[worker].take()
        if slot != NO_SLOT:
            assert slot not in {taken for taken, _ in self.in_flight}
            self.slots.arena.slot(slot)[:32] = 0xFF  # the worker may write at once
            self.in_flight.append((slot, worker))

    @rule()
    def share_task(self) -> None:
        """The slot is chosen here, and any worker may write to it."""
        slot = self.slots.reserve()
        if slot is not None:
            assert slot not in {taken for taken, _ in self.in_flight}
            self.slots.arena.slot(slot)[:32] = 0xFF
            self.in_flight.append((slot, ANYBODY))

    @rule(worker=st.integers(0, WORKERS - 1))
    def die(self, worker: int) -> None:
        self.in_flight = [task for task in self.in_flight if task[1] != worker]
        self.slots.revoke(worker)
        self.workers[worker] = Grants(self.slots.arena, worker)

    @rule(most_bytes=st.sampled_from([0, 2 * STRIDE, SLOTS * STRIDE]))
    def park_and_begin_again(self, most_bytes: int) -> None:
        stale, self.in_flight = self.in_flight, []
        for slot, worker in stale[1:]:  # its report arrives, but nobody takes the batch
            self.slots.returned(slot, worker)
        self.slots.park(most_bytes)
        for slot, worker in stale:
            self.slots.release(slot, worker)
        self.slots.begin(WORKERS, 2, 1 << 40)
        self.workers = [Grants(self.slots.arena, worker) for worker in range(WORKERS)]

    @precondition(lambda self: self.in_flight)
    @rule(pick=st.randoms(use_true_random=False))
    def fail(self, pick) -> None:
        slot, worker = self.in_flight.pop(pick.randrange(len(self.in_flight)))
        self.slots.returned(slot, worker)
        self.slots.release(slot, worker)

    @precondition(lambda self: self.in_flight and self.slots.may_lease())
    @rule(pick=st.randoms(use_true_random=False), kind=st.sampled_from(sorted(ALIASES)))
    def deliver(self, pick, kind: str) -> None:
        slot, worker = self.in_flight.pop(pick.randrange(len(self.in_flight)))
        self.slots.returned(slot, worker)
        self.stamp += 1
        self.slots.arena.slot(slot)[:32].view(np.float32)[:] = self.stamp
        memory = self.slots.lease(slot, worker, STRIDE)
        tensor = torch.frombuffer(memory, dtype=torch.float32, count=8)
        self.held.append((self.stamp, ALIASES[kind](tensor)))

    @precondition(lambda self: self.held)
    @rule(pick=st.randoms(use_true_random=False))
    def drop(self, pick) -> None:
        self.held.pop(pick.randrange(len(self.held)))

    @rule()
    def fork_worker(self) -> None:
        watcher = object()
        with forking_workers(watcher):
            child = os.fork()
            if child == 0:
                self.held.clear()  # what a child drops is still held here
                os._exit(0)
        os.waitpid(child, 0)
        self.watchers.append(watcher)

    @precondition(lambda self: self.watchers)
    @rule()
    def end_worker(self) -> None:
        workers_gone(self.watchers.pop())

    @invariant()
    def held_batches_are_unchanged(self) -> None:
        for stamp, alias in self.held:
            assert stamp_of(alias) == stamp

    @invariant()
    def each_slot_is_in_one_state(self) -> None:
        self.slots.validate()
        counts = self.slots.statistics()
        states = counts.fresh, counts.free, *counts.granted, counts.in_hand, counts.leased
        assert sum(states) + counts.reserved + counts.quarantined == SLOTS

    def teardown(self) -> None:
        """Once nothing is held and no child is left, every slot is free again."""
        self.held.clear()
        gc.collect()
        while self.watchers:
            workers_gone(self.watchers.pop())
        assert free_slots(self.slots) == set(range(SLOTS))


TestSlotProtocol = SlotProtocol.TestCase
TestSlotProtocol.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)


def test_worker_writes_to_the_slot_it_wrote_last() -> None:
    """Of the slots granted to it, the one whose pages it knows best."""
    slots = make_slots()
    slots.provide(0, 3)
    worker = Grants(slots.arena, 0)
    first, second = worker.take(), worker.take()
    for slot in (second, first):
        slots.returned(slot, 0)
        slots.release(slot, 0)
    assert [worker.take(), worker.take()] == [second, first]


def test_slot_is_granted_again_as_soon_as_its_batch_is_dropped() -> None:
    """Also while the consumer asks for nothing: the worker sees the flag."""
    slots = make_slots()
    slot = take(slots, 0)
    slots.returned(slot, 0)
    view = slots.lease(slot, 0, 32)
    flags = slots.arena.flags(0)
    assert not flags[slot]
    del view
    assert flags[slot]


class Interruption(Exception):
    """Raised by the signal handler."""


def interrupt_as_it_ends(view: object) -> object:
    """Have a signal arrive in the moment in which a view is gone, before anything else runs."""
    send = functools.partial(next, map(_thread.interrupt_main, (signal.SIGUSR1,)))
    return weakref.ref(view, send)  # of several, the newest is called first


def drop_interrupted(held: list[object]) -> None:
    """Drop a batch; a signal arrives meanwhile, whose handler raises.

    Raises:
        Interruption: The program sees what the handler raised.
    """

    def interrupt(*_: object) -> None:
        raise Interruption

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        watch = interrupt_as_it_ends(held[0])
        held.clear()
        del watch
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("others", [0, 2])
def test_an_exception_from_outside_is_not_lost_when_a_batch_is_dropped(others: int) -> None:
    """It is raised in the program, and the slot can be used again; also if more are held."""
    slots = make_slots()
    views = []
    for _ in range(others + 1):
        slot = take(slots, 0)
        slots.returned(slot, 0)
        views.append(slots.lease(slot, 0, 32))
    held: list[object] = [views.pop()]
    with pytest.raises(Interruption):
        drop_interrupted(held)
    slots.validate()
    assert slots.statistics().leased == others
    del views
    assert free_slots(slots) == set(range(SLOTS))


@pytest.mark.parametrize("is_resting", [False, True], ids=["large", "resting"])
def test_an_exception_from_outside_costs_no_slot(is_resting: bool, monkeypatch) -> None:
    """Also where a batch ends in Python, which can't raise it there."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(slots_module, "LARGE_BYTES", STRIDE)
    slots = make_slots()
    slot = take(slots, 0)
    slots.returned(slot, 0)
    held: list[object] = [slots.lease(slot, 0, 32 if is_resting else STRIDE)]
    if is_resting:
        slots.park()
    with contextlib.suppress(Interruption):
        drop_interrupted(held)
    slots.validate()
    slots.begin(WORKERS, 2, 1 << 40)
    assert free_slots(slots) == set(range(SLOTS))


def test_batches_that_are_dropped_during_a_long_step_are_noted_by_the_next_call() -> None:
    """Of many that are held at once; a fork in between takes none of them out of use."""
    slots = make_slots()
    views = []
    for _ in range(3):
        slot = take(slots, 0)
        slots.returned(slot, 0)
        views.append(slots.lease(slot, 0, 32))
    del views
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert slots.quarantined_count == 0
    assert free_slots(slots) == set(range(SLOTS))


def test_slots_that_only_a_burst_needed_give_their_memory_back() -> None:
    """A worker keeps a few; the pages of the others return to the system."""
    slots = make_slots()
    slots.provide(0, SLOTS)
    worker = Grants(slots.arena, 0)
    taken = [worker.take() for _ in range(SLOTS)]
    for slot in taken:
        slots.returned(slot, 0)
        slots.arena.slot(slot)[:] = 7
    for slot in taken:
        slots.release(slot, 0)
    kept = [slot for slot in range(SLOTS) if slots.arena.flags(0)[slot]]
    assert len(kept) == 3
    assert all(slots.arena.slot(slot)[0] == (7 if slot in kept else 0) for slot in taken)


def test_parked_slots_keep_only_so_many_pages() -> None:
    """Also one whose batch is dropped later, when there is no worker that could use it."""
    slots = make_slots()
    slots.provide(0, SLOTS)
    for slot in range(SLOTS):
        slots.arena.slot(slot)[:] = 7
    slots.returned(5, 0)
    view = slots.lease(5, 0, STRIDE)

    slots.park(2 * STRIDE)

    assert [int(slots.arena.slot(slot)[0]) for slot in range(SLOTS)].count(7) == 3
    assert view[0] == 7
    assert slots.held_bytes() == 3 * STRIDE
    del view
    assert slots.held_bytes() == 2 * STRIDE
    slots.park()
    assert slots.held_bytes() == 0
    assert not any(slots.arena.slot(slot)[0] for slot in range(SLOTS))


def test_a_slot_in_hand_when_the_workers_end_is_freed_once() -> None:
    """Whoever had the batch in hand may still say that it is not needed."""
    slots = make_slots()
    slot = take(slots, 0)
    slots.returned(slot, 0)
    assert slots.statistics().in_hand == 1
    slots.park()
    slots.release(slot, 0)
    slots.validate()
    assert slots.statistics().in_hand == 0


def test_slots_that_were_parked_are_given_out_with_their_pages_first() -> None:
    """Touching a new page is what costs."""
    slots = make_slots()
    slots.provide(0, 2)
    touched = {slot for slot in range(SLOTS) if slots.arena.flags(0)[slot]}
    show_size(slots, STRIDE)

    slots.park(SLOTS * STRIDE)
    assert not any(any(slots.arena.flags(worker)) for worker in range(WORKERS))
    slots.begin(WORKERS, 2, 1 << 40)

    slots.provide(1, 2)
    assert {slot for slot in range(SLOTS) if slots.arena.flags(1)[slot]} == touched


def test_a_forked_child_frees_no_memory_of_its_parents_slots() -> None:
    """Its copy of the free list is inert."""
    slots = make_slots()
    slots.provide(0, SLOTS)
    slots.arena.slot(0)[:] = 7
    child = os.fork()
    if child == 0:
        slots.park()
        os._exit(0)
    os.waitpid(child, 0)
    assert slots.arena.slot(0)[0] == 7


def test_limit_for_all_loaders_counts_what_the_others_hold() -> None:
    """A second loader takes only what the first leaves of the limit."""
    arenas = [Arena.create(SLOTS, STRIDE, WORKERS) for _ in range(2)]
    limit_bytes = 3 * STRIDE
    first, second = (
        Slots(arena, most_tasks=2, most_leases=3, limit_bytes=limit_bytes, limits_all=True)
        for arena in arenas
    )
    show_size(first, STRIDE)
    assert not first.provide(0, 4)
    assert first.held_bytes() == limit_bytes
    assert not second.provide(0, 1)
    del first
    gc.collect()
    show_size(second, STRIDE)
    assert second.provide(0, 3)
    assert not second.provide(0, 4)
    for arena in arenas:
        arena.close_descriptor()


class Dropping:
    """The flags of a worker: the first that is changed drops a batch, as a collection may."""

    def __init__(self, flags, held: list[object]) -> None:
        self.flags = flags
        self.held = held

    def __setitem__(self, slot: int, flag: int) -> None:
        self.flags[slot] = flag
        self.held.clear()


def test_a_batch_that_is_dropped_while_a_workers_slots_are_taken_back() -> None:
    """Its slot is granted to that worker, and taken back with the others."""
    slots = make_slots()
    slot = take(slots, 0)
    slots.returned(slot, 0)
    held: list[object] = [slots.lease(slot, 0, 32)]
    slots.provide(0, 2)
    slots._flags[0] = Dropping(slots._flags[0], held)
    slots.revoke(0)

    assert not held
    assert not any(slots.arena.flags(0))
    slots._flags[0] = slots.arena.flags(0)
    assert free_slots(slots) == set(range(SLOTS))


def test_leased_slot_at_a_foreign_fork_is_never_used_again() -> None:
    """A child that nobody knows may look at the batch for ever."""
    slots = make_slots()
    slot = take(slots, 0)
    slots.returned(slot, 0)
    view = slots.lease(slot, 0, 32)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    del view
    assert slot not in free_slots(slots)


class CollectsWhenHashed:
    """What a fork is marked with; looking at it runs the garbage collector."""

    def __hash__(self) -> int:
        gc.collect()
        return id(self)


def test_leases_that_the_garbage_collector_ends_during_a_fork_harm_nobody() -> None:
    """The collector may run inside the fork's own bookkeeping; the lock is free afterwards."""
    slots = make_slots()
    for _ in range(3):
        slot = take(slots, 0)
        slots.returned(slot, 0)
        cycle: list[object] = [slots.lease(slot, 0, 32)]
        cycle.append(cycle)
    del cycle
    with forking_workers(CollectsWhenHashed()):
        child = os.fork()
        if child == 0:
            os._exit(0)
    os.waitpid(child, 0)
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(slots.lock.acquire(timeout=5)))
    thread.start()
    thread.join()
    assert taken == [True]


def test_a_fork_does_not_wait_for_one_lock_while_it_holds_another() -> None:
    """Whoever has that one may want this one: garbage collection ends leases wherever it comes."""
    first, second = make_slots(), make_slots()
    is_held = threading.Event()
    done: list[str] = []

    def collect_within() -> None:
        with second.lock:
            is_held.set()
            time.sleep(0.3)
            with first.lock:
                done.append("collected")

    def fork() -> None:
        is_held.wait()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        done.append("forked")

    threads = [threading.Thread(target=each, daemon=True) for each in (collect_within, fork)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)

    assert done == ["collected", "forked"]


def test_sharing_a_tensor_keeps_its_slot_while_an_alias_is_used() -> None:
    """``share_memory_`` moves the tensor away; the array made before still sees the slot."""
    slots = make_slots()
    slot = take(slots, 0)
    slots.returned(slot, 0)
    tensor = torch.frombuffer(slots.lease(slot, 0, 32), dtype=torch.float32, count=8)
    tensor.fill_(7)
    alias = tensor.numpy()
    tensor.share_memory_()
    del tensor
    assert slot not in free_slots(slots)
    assert alias.tolist() == [7.0] * 8
    del alias
    assert slot in free_slots(slots)


def test_sharing_a_tensor_frees_its_slot_once_the_tensor_is_gone() -> None:
    """Nobody can see the old memory any more."""
    slots = make_slots()
    slot = take(slots, 0)
    slots.returned(slot, 0)
    tensor = torch.frombuffer(slots.lease(slot, 0, 32), dtype=torch.float32, count=8)
    tensor.share_memory_()
    del tensor
    assert slot in free_slots(slots)


def test_arena_too_large_for_the_address_space_has_smaller_slots() -> None:
    """Where the full stride can't be mapped, a smaller one is."""
    arena = Arena.create(4, 1 << 52, 1)
    assert arena.stride_bytes < 1 << 52
    arena.slot(3)[-1] = 1
    arena.close_descriptor()
