"""Every sampler in both loaders, with and without workers, and through a saved state."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.utils.data as torch_data
from torch.utils.data import Dataset

import fastload

LENGTH = 24
LENGTHS = [(7 * i) % 20 + 1 for i in range(LENGTH)]


class Numbers(Dataset):
    """Sample i is i."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> int:
        return index


SAMPLERS = {
    "random": lambda: fastload.RandomSampler(Numbers()),
    "with replacement": lambda: fastload.RandomSampler(Numbers(), True, 40),
    "own generator": lambda: fastload.RandomSampler(
        Numbers(), generator=torch.Generator().manual_seed(3)
    ),
    "subset": lambda: fastload.SubsetRandomSampler(range(3, LENGTH)),
    "weighted": lambda: fastload.WeightedRandomSampler([1.0] * LENGTH, 30),
    "distributed": lambda: fastload.DistributedSampler(Numbers(), 2, 1),
    "shuffle": lambda: fastload.ShuffleSampler(LENGTH, seed=3),
    "blocks": lambda: fastload.BlockShuffleSampler([6, 9, 9], window=2),
    "shard": lambda: fastload.shard(fastload.ShuffleSampler(LENGTH), 1, 2),
    "shard of random": lambda: fastload.shard(fastload.RandomSampler(Numbers()), 1, 2),
    "shard of own generator": lambda: fastload.shard(
        fastload.RandomSampler(Numbers(), generator=torch.Generator().manual_seed(3)), 1, 2
    ),
}
BATCH_SAMPLERS = {
    "lengths": lambda: fastload.LengthGroupedBatchSampler(LENGTHS, 4),
    "tokens": lambda: fastload.TokenBudgetBatchSampler(LENGTHS, 40),
    "shard of lengths": lambda: fastload.shard(
        fastload.LengthGroupedBatchSampler(LENGTHS, 4), 1, 2
    ),
    "shard of batches": lambda: fastload.shard(
        fastload.BatchSampler(fastload.ShuffleSampler(LENGTH), 3, drop_last=False), 0, 2
    ),
    "batches of shard": lambda: fastload.BatchSampler(
        fastload.shard(fastload.ShuffleSampler(LENGTH), 0, 2), 3, drop_last=True
    ),
}
ALL = sorted(SAMPLERS | BATCH_SAMPLERS)
LOADERS = {"fastload": fastload.DataLoader, "torch": torch_data.DataLoader}


def make_loader(name: str, loader=fastload.DataLoader, epoch: int = 0, **options):
    if name in SAMPLERS:
        arguments = {"sampler": SAMPLERS[name](), "batch_size": 3}
    else:
        arguments = {"batch_sampler": BATCH_SAMPLERS[name]()}
    made = loader(Numbers(), **arguments, **options)
    for sampler in (made.sampler, getattr(made.batch_sampler, "sampler", None)):
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
    return made


def rows(loader) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loader", sorted(LOADERS))
@pytest.mark.parametrize("name", ALL)
def test_batches_are_the_samplers(name: str, loader: str, workers: int) -> None:
    """Those of torch's loader over the same sampler in the calling process; in number too."""
    torch.manual_seed(2)
    expected = rows(make_loader(name, torch_data.DataLoader, epoch=1))
    torch.manual_seed(2)
    made = make_loader(name, LOADERS[loader], epoch=1, num_workers=workers)
    assert rows(made) == expected
    assert len(made) == len(expected)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 0), (0, 2)])
@pytest.mark.parametrize("name", ALL)
def test_a_saved_epoch_goes_on_in_another_process(name: str, before: int, after: int) -> None:
    """With the sampler's epoch, and with other random numbers in the new process."""
    torch.manual_seed(2)
    expected = rows(make_loader(name, epoch=3))
    for delivered in (1, 3):
        torch.manual_seed(2)
        first = make_loader(name, epoch=3, num_workers=before)
        batches = iter(first)
        seen = [next(batches).tolist() for _ in range(delivered)]
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        torch.manual_seed(99)
        np.random.seed(99)
        second = make_loader(name, num_workers=after)
        second.load_state_dict(torch.load(file, weights_only=True))
        assert seen + rows(second) == expected


def test_a_resumed_epoch_of_a_billion_begins_at_its_position() -> None:
    """Nothing is walked over: this would take a minute otherwise."""

    class Huge(Numbers):
        def __len__(self) -> int:
            return 10**9

    def loader():
        return fastload.DataLoader(Huge(), 1000, sampler=fastload.ShuffleSampler(10**9))

    made = loader()
    next(iter(made))
    state = made.state_dict()
    for key in ("_num_yielded", "_sampler_iter_yielded"):
        state[key] = 900_000
    resumed = loader()
    resumed.load_state_dict(state)
    expected = fastload.ShuffleSampler(10**9).iter_from(900_000_000)
    assert next(iter(resumed)).tolist() == [next(expected) for _ in range(1000)]


@pytest.mark.parametrize("workers", [0, 2])
def test_set_epoch_between_epochs_changes_the_order(workers: int) -> None:
    """With kept workers too: samplers live in the consumer."""
    sampler = fastload.ShuffleSampler(LENGTH)
    loader = fastload.DataLoader(
        Numbers(), 4, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
    )
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(rows(loader))
    loader.close()
    assert orders[0] == orders[2] != orders[1]
