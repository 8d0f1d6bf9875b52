"""Workers start one after the other, and what they see does not depend on when."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

import fastload


class Changing(Dataset[Any]):
    """Samples say which process loads them and what the dataset was when that one was made."""

    value = 0

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[int, int]:
        return os.getpid(), self.value


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_all_workers_see_the_dataset_as_it_was_when_the_epoch_began(method):
    """As torch's do; what the program changes in its loop, none of them sees."""
    dataset = Changing()
    loader = fastload.DataLoader(
        dataset, batch_size=2, num_workers=4, multiprocessing_context=method, prefetch_factor=1
    )
    seen: list[torch.Tensor] = []
    for processes, values in loader:
        dataset.value += 1
        seen += processes
        assert values.tolist() == [0, 0]
    assert len({int(process) for process in seen}) == 4


def test_with_a_seed_the_first_batch_comes_before_all_workers_are_there():
    """The others are started while later batches are asked for; each is, before the end."""
    loader = fastload.DataLoader(range(200), batch_size=4, num_workers=6, seed=1)
    iterator = iter(loader)
    deadline = time.monotonic() + 60
    while not iterator._pool.tasks._mailboxes[0].arrived and time.monotonic() < deadline:
        iterator._pool._watches.wait(0.01, lambda: True)
        iterator._pool._take_reports(0)
    found = [next(iterator)]
    assert len(iterator._pool.workers) == 1
    found += iterator
    assert torch.equal(torch.cat(found), torch.arange(200))
    assert len(iterator._pool.workers) == 6


def test_an_iterator_that_is_dropped_before_all_have_started_ends_those_that_have():
    """And an epoch after it is whole."""
    loader = fastload.DataLoader(
        range(200), batch_size=4, num_workers=5, seed=1, persistent_workers=True
    )
    with loader:
        next(iter(loader))
        next(iter(loader))
        assert torch.equal(torch.cat(list(loader)), torch.arange(200))


def test_workers_that_are_not_there_yet_are_listed_all_the_same():
    """Trainers look at ``_workers``, and signals are sent to them."""
    loader = fastload.DataLoader(range(40), batch_size=4, num_workers=3, seed=1)
    iterator = iter(loader)
    assert len({process.pid for process in iterator._workers}) == 3
    assert len(list(iterator)) == 10


def test_workers_die_while_others_are_still_to_be_started():
    """A death before all have started is a death as any other."""

    class Dying(Changing):
        def __getitem__(self, index: int) -> Any:
            if index == 0:
                os._exit(3)
            return super().__getitem__(index)

    loader = fastload.DataLoader(Dying(), batch_size=2, num_workers=6, seed=1)
    with pytest.raises(fastload.WorkerDied, match="exited with code 3"):
        list(loader)
