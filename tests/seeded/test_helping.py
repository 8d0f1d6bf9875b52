"""Workers of a seeded loader help each other: which of them loads what is for nobody to see."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

import fastload

HANG_S = 60


class Meeting(Dataset[bool]):
    """Two samples, each of which is true if the other one was begun meanwhile."""

    def __init__(self) -> None:
        context = torch.multiprocessing.get_context("fork")
        self.begun = [context.Event(), context.Event()]

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> bool:
        self.begun[index].set()
        return self.begun[1 - index].wait(HANG_S)


class SlowFirst(Dataset[int]):
    """Sample 0 comes when three others have been loaded; if they are not, it is -1."""

    def __init__(self) -> None:
        self.loaded: Any = torch.multiprocessing.get_context("fork").Semaphore(0)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        if index == 0:
            return 0 if all(self.loaded.acquire(timeout=HANG_S) for _ in range(3)) else -1
        self.loaded.release()
        return index


def test_one_batch_is_loaded_by_two_workers_at_a_time():
    """The first batch does not wait until one worker has loaded all of its samples."""
    with fastload.DataLoader(
        Meeting(), batch_size=2, num_workers=2, seed=1, workers_per_batch=2
    ) as loader:
        assert [batch.tolist() for batch in loader] == [[True, True]]


def test_batches_behind_a_slow_one_go_to_whoever_is_idle():
    """All that may be on their way are loaded while it lasts, and come behind it, in order.

    Batches dealt in turn would give the slow worker every other one, and it would wait for itself.
    """
    with fastload.DataLoader(
        SlowFirst(), batch_size=1, num_workers=2, prefetch_factor=2, seed=1
    ) as loader:
        assert [batch.item() for batch in loader] == list(range(12))
