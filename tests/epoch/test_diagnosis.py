"""What a hang's message says of the memory that the batch is to be written to."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.utils.data import Dataset

import fastload
from tests.contract.forks import Forked, needs_fork

LIMIT_BYTES = 1 << 20
LARGE_BYTES = LIMIT_BYTES // 8
"""With the batches that are held, more slots of this size than fit into the limit."""

HELD, SEEN_BY_CHILD, HANGING = 8, 3, 14
TIMEOUT_S = 2


class Growing(Dataset):
    """Samples that are small at first; the later ones are of this size."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == HANGING:
            threading.Event().wait()
        size = 8 if index < HELD else self.size_bytes
        return torch.zeros(size, dtype=torch.uint8)


def growing(size_bytes: int = LARGE_BYTES) -> fastload.DataLoader:
    return fastload.DataLoader(
        Growing(size_bytes),
        batch_size=None,
        num_workers=1,
        timeout=TIMEOUT_S,
        memory_limit=LIMIT_BYTES,
    )


def what_the_timeout_says(batches) -> str:
    """The text of the error, once the worker has begun; before, it may still be starting."""
    while True:
        with pytest.raises(fastload.LoadingTimeout) as caught:
            list(batches)
        if f"batch {HANGING} " in str(caught.value):
            return str(caught.value)


def test_timeout_says_that_no_slot_is_left_because_batches_are_held():
    """Batches that a program keeps take the memory that later, larger ones would be written to."""
    batches = iter(growing())
    held = [next(batches) for _ in range(HELD)]
    said = what_the_timeout_says(batches)
    assert "comes by pipe" in said
    assert f"the program holds {HELD} batches" in said
    assert "memory_limit=" in said
    assert "quarantined" not in said
    del held


@needs_fork
def test_timeout_says_that_slots_are_quarantined_for_a_forked_child():
    """A child that is alive may read what was held when it was forked."""
    batches = iter(growing())
    held = [next(batches) for _ in range(HELD)]
    child = Forked(lambda: None)
    del held[:SEEN_BY_CHILD]
    said = what_the_timeout_says(batches)
    assert f"the program holds {HELD - SEEN_BY_CHILD} batches" in said
    assert f"{SEEN_BY_CHILD} slots are quarantined, because a forked child may read them" in said
    child.result()


def test_timeout_says_nothing_of_slots_where_the_worker_has_one():
    """Without a lack of memory the message is about the worker alone."""
    said = what_the_timeout_says(iter(growing(size_bytes=8)))
    assert "in __getitem__" in said
    assert "comes by pipe" not in said
