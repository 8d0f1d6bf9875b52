"""Shared tasks and parts of batches under whatever happens: nothing hangs, is lost or torn."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

import fastload

from .test_parts import assert_same

PARTS = pytest.mark.parametrize("parts", [1, 2])


class Slow(Dataset[torch.Tensor]):
    """Indices, each of which takes a while."""

    def __init__(self, length: int = 64, seconds: float = 0.01) -> None:
        self.length = length
        self.seconds = seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.tensor(index)


def options(parts: Any, **others: Any) -> dict[str, Any]:
    """Those of a loader with two workers; a hang becomes an error."""
    return {
        "batch_size": 4,
        "seed": 1,
        "num_workers": 2,
        "workers_per_batch": parts,
        "timeout": 60,
        **others,
    }


def without_workers(dataset: Any, **others: Any) -> list[Any]:
    """What all other ways are compared with."""
    changes = {"num_workers": 0, "workers_per_batch": 1, "timeout": 0}
    return list(fastload.DataLoader(dataset, **{**options(1, **others), **changes}))


@PARTS
def test_an_iterator_that_is_dropped_at_once_stops_no_other(parts):
    """Workers may hear that a run was cancelled before they hear that it has begun."""
    loader = fastload.DataLoader(Slow(), **options(parts, persistent_workers=True))
    one = iter(loader)
    found = [next(one)]
    other = iter(loader)
    del other, loader
    found += one
    assert_same(found, without_workers(Slow(seconds=0)))


@PARTS
@pytest.mark.filterwarnings("ignore:.*was started again")
def test_what_a_dropped_iterator_left_in_the_queue_does_no_harm_to_new_workers(parts):
    """A worker that starts later finds tasks of runs that it has never heard of."""
    loader = fastload.DataLoader(
        Slow(), **options(parts, persistent_workers=True, max_worker_restarts=4)
    )
    expected = without_workers(Slow(seconds=0))
    with loader:
        one = iter(loader)
        next(one)
        for process in one._workers:
            os.kill(process.pid, signal.SIGKILL)
        del one
        loader.set_epoch(0)
        assert_same(list(loader), expected)
        loader.set_epoch(0)
        one = iter(loader)
        found = [next(one)]
        for _ in range(2):  # the loader keeps the last one
            next(iter(loader))
        for process in one._workers:
            os.kill(process.pid, signal.SIGKILL)
        found += one
        assert_same(found, expected)


@PARTS
def test_iterators_of_one_loader_get_all_batches_however_many_they_are(parts):
    """Where the others have all slots, an iterator's next batch comes by pipe."""
    dataset = Slow(24, 0.002)
    loader = fastload.DataLoader(dataset, **options(parts, persistent_workers=True))
    with loader:
        iterators = []
        for _ in range(9):
            loader.set_epoch(0)
            iterators.append(iter(loader))
        first = [next(iterator) for iterator in iterators]
        for batch, iterator in zip(first, iterators, strict=True):
            assert_same([batch, *iterator], without_workers(dataset))


@pytest.mark.parametrize("parts", [1, 2, "auto"])
def test_a_batch_without_samples_is_one_task(parts):
    """A batch sampler may give an empty list, and the collate function gets it."""
    batches = [[1, 2, 3], [], [4, 5]]
    found = fastload.DataLoader(
        list(range(10)),
        batch_sampler=batches,
        collate_fn=list,
        seed=1,
        num_workers=2,
        workers_per_batch=parts,
        timeout=60,
    )
    assert list(found) == batches
