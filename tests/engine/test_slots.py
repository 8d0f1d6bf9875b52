"""The slot protocol: no slot is handed out while anything can see its content."""

from __future__ import annotations

import gc
import os

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastload.memory.arena import Arena
from fastload.memory.slots import Slots, forking_workers, workers_gone

WORKERS = 2
SLOTS = 6
STRIDE = 1 << 20


def make_slots() -> Slots:
    arena = Arena.create(SLOTS, STRIDE)
    slots = Slots(arena, WORKERS, most_tasks=2, most_leases=3, limit_bytes=1 << 40)
    arena.close_descriptor()
    return slots


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
        self.in_flight: list[tuple[int, int]] = []
        self.held: list[tuple[float, object]] = []
        self.stamp = 0.0
        self.watchers: list[object] = []

    @rule(worker=st.integers(0, WORKERS - 1))
    def grant(self, worker: int) -> None:
        slot = self.slots.grant(worker)
        if slot is not None:
            assert slot not in {taken for taken, _ in self.in_flight}
            self.slots.arena.slot(slot)[:32] = 0xFF  # the worker may write at once
            self.in_flight.append((slot, worker))

    @precondition(lambda self: self.in_flight)
    @rule(pick=st.randoms(use_true_random=False))
    def fail(self, pick) -> None:
        slot, worker = self.in_flight.pop(pick.randrange(len(self.in_flight)))
        self.slots.come_back(slot, worker)
        self.slots.give_back(slot, worker)

    @precondition(lambda self: self.in_flight and self.slots.may_lease())
    @rule(pick=st.randoms(use_true_random=False), kind=st.sampled_from(sorted(ALIASES)))
    def deliver(self, pick, kind: str) -> None:
        slot, worker = self.in_flight.pop(pick.randrange(len(self.in_flight)))
        self.slots.come_back(slot, worker)
        self.stamp += 1
        self.slots.arena.slot(slot)[:32].view(np.float32)[:] = self.stamp
        memory = self.slots.lease(slot, worker)
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

    def teardown(self) -> None:
        """Once nothing is held and no child is left, every slot is free again."""
        self.held.clear()
        gc.collect()
        while self.watchers:
            workers_gone(self.watchers.pop())
        for worker in range(WORKERS):
            self.slots.reclaim(worker)
        free = {self.slots.grant(0) for _ in range(SLOTS)}
        assert free == set(range(SLOTS))


TestSlotProtocol = SlotProtocol.TestCase
TestSlotProtocol.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_slot_that_a_worker_used_last_goes_back_to_it_first() -> None:
    """A freed slot returns to its worker, most recently used first."""
    slots = make_slots()
    first, second = slots.grant(0), slots.grant(1)
    assert first is not None
    assert second is not None
    for slot, worker in ((first, 0), (second, 1)):
        slots.come_back(slot, worker)
        slots.give_back(slot, worker)
    assert slots.grant(1) == second
    assert slots.grant(0) == first


def test_leased_slot_at_a_foreign_fork_is_never_used_again() -> None:
    """A child that nobody knows may look at the batch for ever."""
    slots = make_slots()
    slot = slots.grant(0)
    assert slot is not None
    view = slots.lease(slot, 0)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    del view
    assert slot not in {slots.grant(0) for _ in range(SLOTS)}


def test_sharing_a_tensor_keeps_its_slot_while_an_alias_is_used() -> None:
    """``share_memory_`` moves the tensor away; the array made before still sees the slot."""
    slots = make_slots()
    slot = slots.grant(0)
    assert slot is not None
    tensor = torch.frombuffer(slots.lease(slot, 0), dtype=torch.float32, count=8)
    tensor.fill_(7)
    alias = tensor.numpy()
    tensor.share_memory_()
    del tensor
    assert slot not in {slots.grant(0) for _ in range(SLOTS)}
    assert alias.tolist() == [7.0] * 8
    del alias
    assert slots.grant(0) == slot


def test_sharing_a_tensor_frees_its_slot_once_the_tensor_is_gone() -> None:
    """Nobody can see the old memory any more."""
    slots = make_slots()
    slot = slots.grant(0)
    assert slot is not None
    tensor = torch.frombuffer(slots.lease(slot, 0), dtype=torch.float32, count=8)
    tensor.share_memory_()
    del tensor
    assert slots.grant(0) == slot


def test_arena_too_large_for_the_address_space_has_smaller_slots() -> None:
    """Where the full stride can't be mapped, a smaller one is."""
    arena = Arena.create(4, 1 << 52)
    assert arena.stride_bytes < 1 << 52
    arena.slot(3)[-1] = 1
    arena.close_descriptor()
