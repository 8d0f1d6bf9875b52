"""The public API as a user's type checker sees it; ``make types`` checks it, nothing runs it.

An expression that is not of the stated type is an error there, and so is a ``type: ignore`` that
is not needed: those mark what must be refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset
from typing_extensions import assert_type

import fastload
from fastload import DataLoader, Pack, Pad, PadDict
from fastload.samplers import BatchSampler, RandomSampler, ShuffleSampler, shard


class Squares(Dataset[int]):
    """A user's dataset."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        return index * index


def a_loader_knows_what_its_dataset_gives() -> None:
    loader = DataLoader(
        Squares(), batch_size=2, shuffle=True, num_workers="auto", prefetch_factor=4
    )
    assert_type(loader, DataLoader[int])
    as_torch: torch.utils.data.DataLoader[int] = loader
    assert_type(len(as_torch), int)
    with loader as opened:
        assert_type(opened, DataLoader[int])
    assert_type(loader.replace(batch_size=3), DataLoader[int])


def statistics_have_types() -> None:
    stats = DataLoader(Squares()).stats()
    assert_type(stats, fastload.Stats)
    assert_type(stats.stall_share, float)
    assert_type(stats.batches, int)
    assert_type(stats.to_prometheus(job="train"), str)


def a_state_is_a_dict() -> None:
    loader = DataLoader(Squares())
    assert_type(loader.state_dict(), dict[str, Any])
    loader.load_state_dict(loader.state_dict())
    loader.close()


def samplers_give_indices() -> None:
    sampler = ShuffleSampler(1_000, seed=7)
    assert_type(next(iter(sampler)), int)
    assert_type(len(sampler), int)
    DataLoader(Squares(), sampler=sampler)
    DataLoader(Squares(), sampler=shard(sampler, 0, 2))
    DataLoader(Squares(), batch_sampler=BatchSampler(RandomSampler(range(10)), 3, drop_last=False))


def collate_functions_can_be_passed() -> None:
    for collate in (fastload.pad, Pad(value=-1), Pack(max_length=8), PadDict({"ids": Pad()})):
        DataLoader(Squares(), collate_fn=collate)


def wrong_arguments_are_refused() -> None:
    DataLoader(Squares(), batch_size="2")  # type: ignore[arg-type]
    DataLoader(Squares(), num_workers="many")  # type: ignore[arg-type]
    DataLoader(Squares(), no_such_argument=1)  # type: ignore[call-arg]
    ShuffleSampler(1.5)  # type: ignore[arg-type]
