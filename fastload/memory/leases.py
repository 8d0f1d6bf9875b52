"""Hand a batch to the user: as a view of its slot, or as a private copy.

Runs in: consumer.
Takes: a loaded batch and the slot it lies in.
Gives: the batch, and the slot back: at once for a copy, when the last view is gone for a lease.

A user may hold any number of batches. While few are held they are leased, without a copy; beyond
that, or when shared memory would exceed its limit, batches are copied, so that workers always
find free slots and shared memory stays bounded.
"""

from __future__ import annotations

from typing import Any

from fastload.memory.grants import NO_SLOT
from fastload.memory.slots import Slots
from fastload.memory.view import copy_leaves, rebuild_batch, view_leaves
from fastload.messages import Loaded


def unwrap(report: Loaded, slots: Slots | None, worker_id: int) -> Any:
    """The batch of a report.

    Raises:
        BrokenBatchError: Unpickling an object of the batch raised something.
    """
    assert report.layout is not None
    slot = report.slot
    if slots is None or slot == NO_SLOT:
        return rebuild_batch([], report.skeleton or b"")
    slots.note_use(report.used_bytes)
    slots.arena.fault_in(slot, report.used_bytes, to_write=False)
    skeleton = report.skeleton
    if skeleton is None:
        assert report.skeleton_at is not None
        start, length = report.skeleton_at
        skeleton = slots.arena.slot(slot)[start : start + length].tobytes()
    if not report.layout:
        slots.give_back(slot, worker_id)
        return rebuild_batch([], skeleton)
    if slots.may_lease():
        return rebuild_batch(view_leaves(slots.lease(slot, worker_id), report.layout), skeleton)
    # Leaf by leaf, so that a small leaf that is kept does not keep a large one beside it.
    leaves = copy_leaves(slots.arena.slot(slot), report.layout)
    slots.give_back(slot, worker_id)
    return rebuild_batch(leaves, skeleton)
