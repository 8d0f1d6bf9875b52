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

from fastload._memory.arena import SMALLEST_FAULT_IN_BYTES
from fastload._memory.fake_tensors import with_fake_tensors
from fastload._memory.granted import NO_SLOT
from fastload._memory.slots import Slots
from fastload._memory.view import BatchTemplate, copy_leaves
from fastload._torch_private import dispatch_modes
from fastload._wire.messages import Loaded


def unwrap(
    report: Loaded, template: BatchTemplate | None, slots: Slots | None, worker_id: int
) -> Any:
    """The batch of a report.

    Raises:
        BrokenBatchError: Unpickling an object of the batch raised something.
    """
    if dispatch_modes():
        return with_fake_tensors(lambda: _unwrap(report, template, slots, worker_id))
    return _unwrap(report, template, slots, worker_id)


def _unwrap(
    report: Loaded, template: BatchTemplate | None, slots: Slots | None, worker_id: int
) -> Any:
    """The batch of a report, where no mode of torch's makes fake tensors."""
    slot, attached = report.slot, report.attached
    if report.skeleton_at is not None:
        assert slots is not None
        assert report.layout is not None
        start, length = report.skeleton_at
        skeleton = slots.arena.slot(slot)[start : start + length]
        template = BatchTemplate(report.layout, skeleton.tobytes())
    elif report.layout is not None and report.skeleton is None:
        template, attached = BatchTemplate(report.layout, attached[-1]), attached[:-1]
    assert template is not None
    if slots is None or slot == NO_SLOT:
        return template.skeleton.assemble([], attached)
    if not template.layout:
        slots.release(slot, worker_id)
        return template.skeleton.assemble([], attached)
    if report.used_bytes >= SMALLEST_FAULT_IN_BYTES:
        slots.arena.fault_in(slot, report.used_bytes, to_write=False)
    memory = slots.lease(slot, worker_id, report.used_bytes)
    if memory is not None:
        return template.skeleton.assemble(template.view(memory), attached)
    # Leaf by leaf, so that a small leaf that is kept does not keep a large one beside it.
    leaves = copy_leaves(slots.arena.slot(slot), template.layout)
    slots.release(slot, worker_id)
    return template.skeleton.assemble(leaves, attached)
