"""What the loader asks of a dataset, and what it leaves in a batch's place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

import fastload
from fastload._loading.fetch import make_fetcher
from fastload._memory.arena import Arena
from fastload._memory.write import SlotPlace
from fastload.collate.inplace import collate_in_place
from fastload.datasets.nodes import MakesBatches


class _Users(Iterator[int]):
    """An iterator of the user's own, with methods of its own."""

    def __init__(self) -> None:
        self._numbers = iter(range(10))

    def __next__(self) -> int:
        return next(self._numbers)

    def next_batch(self, size: int) -> list[int]:
        raise AssertionError(size)

    def next_into(self, buffer: Any) -> int:
        raise AssertionError(buffer)


class _Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return _Users()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("batch_size", [4, None])
def test_methods_of_the_users_are_not_called(workers: int, batch_size: int | None) -> None:
    """An iterator may have a method that is called as one of ours."""
    loader = fastload.DataLoader(_Stream(), batch_size, num_workers=workers)
    found = [torch.as_tensor(batch).reshape(-1) for batch in loader]
    assert torch.cat(found).tolist() == list(range(10))


class _Trying(MakesBatches):
    """Begins a batch in its place, and can't make it."""

    def __next__(self) -> torch.Tensor:
        return torch.ones(4)

    def next_batch(self, count: int, place: Any) -> None:
        place.tensor((count, 1000), torch.uint8)


class _TryingStream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return _Trying()


def test_a_batch_that_could_not_be_made_leaves_no_room_taken() -> None:
    """The samples' batch gets all of the slot."""
    arena = Arena.create(1, 1 << 16, 1)
    fetcher = make_fetcher(
        _TryingStream(), iterable=True, batched=True, collate=collate_in_place, drop_last=False
    )
    place = SlotPlace(arena, 0)
    fetcher.fetch([None] * 2, place)
    assert len(place.leaves) == 1
    assert place.leaves[0][1] == 0
    arena.close_descriptor()
