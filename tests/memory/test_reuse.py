"""Shared memory between epochs: kept for the next workers, within bounds, never in use twice."""

from __future__ import annotations

import copy
import gc
import os
import re
from pathlib import Path

import pytest
import torch

import fastload
from fastload._memory import reuse

SIDE = 1 << 18  # elements of a batch: 2 MiB as int64
BATCHES = 6
PAGES = 1 << 16  # the flags of an arena


class Stamped(torch.utils.data.Dataset):
    """Sample ``i`` is a row that is full of ``i``."""

    def __init__(self, side: int = SIDE) -> None:
        self.side = side

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, index: int):
        return torch.full((self.side,), index)


def arena_bytes() -> int:
    """Memory in all arenas that this process maps."""
    maps = Path("/proc/self/smaps").read_text()
    sizes = re.findall(r"memfd:fastload.*?Pss:\s+(\d+) kB", maps, re.DOTALL)
    return sum(map(int, sizes)) << 10


def arenas() -> set[str]:
    """The files of all arenas that this process maps."""
    maps = Path("/proc/self/maps").read_text()
    return set(re.findall(r"(\S+)\s+/memfd:fastload", maps))


def check(loader) -> None:
    """One epoch with the right batches."""
    assert [batch[0, -1].item() for batch in loader] == list(range(BATCHES))


@pytest.fixture(autouse=True)
def nothing_waits():
    """Nothing of another test waits."""
    gc.collect()
    reuse.clear()
    yield
    reuse.clear()


def test_the_next_epoch_uses_the_memory_of_the_one_before() -> None:
    """The same file, and no more of it than after two epochs."""
    loader = fastload.DataLoader(Stamped(), num_workers=2)
    check(loader)
    check(loader)
    before, kept = arenas(), arena_bytes()
    for _ in range(4):
        check(loader)

    assert arenas() == before
    assert kept > PAGES
    assert arena_bytes() <= kept + 2 * 8 * SIDE


def test_two_loaders_that_take_turns_share_the_memory() -> None:
    """Training and validation, also with fewer workers."""
    training = fastload.DataLoader(Stamped(), num_workers=2)
    validation = fastload.DataLoader(Stamped(), num_workers=1)
    check(training)
    alone = arena_bytes()
    before = arenas()
    for _ in range(3):
        check(validation)
        check(training)

    assert arenas() == before
    assert arena_bytes() <= alone + 2 * 8 * SIDE


def test_a_batch_that_is_held_outlives_any_number_of_epochs() -> None:
    """Of this loader and of others."""
    loader = fastload.DataLoader(Stamped(), num_workers=2)
    held = []
    for epoch in range(4):
        batches = list(loader) if epoch % 2 else [next(iter(loader))]
        held += batches[:2]
    expected = [0, 0, 1, 0, 0, 1]

    assert [batch[0, 0].item() for batch in held] == expected
    assert [batch[0, -1].item() for batch in held] == expected


@pytest.mark.parametrize("how", ["close", "delete"])
def test_the_memory_goes_with_the_loader(how: str) -> None:
    """When it is closed, and when nobody has it any more."""
    loader = fastload.DataLoader(Stamped(), num_workers=1)
    check(loader)
    assert arena_bytes() > PAGES
    if how == "close":
        loader.close()
        assert arena_bytes() < PAGES
        check(loader)
    del loader
    gc.collect()

    assert arena_bytes() < PAGES


def test_the_memory_stays_while_another_loader_has_used_it_too() -> None:
    """It goes with the last of them."""
    first, second = (fastload.DataLoader(Stamped(), num_workers=1) for _ in range(2))
    check(first)
    check(second)
    del first
    gc.collect()
    assert arena_bytes() > PAGES
    del second
    gc.collect()

    assert arena_bytes() < PAGES


def test_epochs_that_overlap_leave_no_more_than_one() -> None:
    """Of a loader whose iterators were alive at a time; and nothing when it is closed."""
    loader = fastload.DataLoader(Stamped(), num_workers=1)
    check(loader)
    alone = arena_bytes()
    first, second = iter(loader), iter(loader)
    assert [batch[0, 0].item() for batch in first] == list(range(BATCHES))
    assert [batch[0, 0].item() for batch in second] == list(range(BATCHES))
    del first, second
    gc.collect()
    assert PAGES < arena_bytes() <= alone + 2 * 8 * SIDE
    loader.close()

    assert arena_bytes() < PAGES
    check(loader)


def test_a_copied_loader_has_memory_of_its_own() -> None:
    """Nothing that is alive is copied."""
    loader = fastload.DataLoader(Stamped(), num_workers=1)
    check(loader)
    twin = copy.copy(loader)
    check(twin)
    del loader
    gc.collect()

    check(twin)


def test_not_more_waits_than_it_may(monkeypatch) -> None:
    """What is beyond goes back to the system."""
    monkeypatch.setattr(reuse, "MOST_BYTES", 8 * SIDE)
    loader = fastload.DataLoader(Stamped(), num_workers=2)
    check(loader)

    assert arena_bytes() <= 8 * SIDE + (1 << 16)
    check(loader)


def test_workers_of_another_kind_do_not_double_the_memory() -> None:
    """More workers than the arena is made for: it goes before theirs is made."""
    few, many = (fastload.DataLoader(Stamped(), num_workers=count) for count in (1, 4))
    check(few)
    before = arenas()
    check(many)

    assert len(arenas()) == 1
    assert arenas() != before


def test_a_loader_with_a_limit_of_its_own_keeps_nothing() -> None:
    """Its limit is for all loaders, and what waits would count."""
    check(fastload.DataLoader(Stamped(), num_workers=1))
    loader = fastload.DataLoader(Stamped(), num_workers=1, memory_limit=64 << 20)
    check(loader)

    assert arena_bytes() < PAGES


def test_slots_that_others_may_see_wear_an_arena_out() -> None:
    """A program that forks while it holds batches gets new slots in the end, not slower ones."""
    loader = fastload.DataLoader(Stamped(1 << 10), num_workers=2)
    seen = set()
    for _ in range(12):
        for _batch in loader:
            pass
        seen |= arenas()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    assert len(seen) > 1
    check(loader)


def test_an_iterator_that_was_left_in_the_middle_leaves_its_memory() -> None:
    """Its batches that nobody asked for are gone, and their slots are used again."""
    loader = fastload.DataLoader(Stamped(), num_workers=2, prefetch_factor=2)
    for _ in range(20):
        batches = iter(loader)
        assert next(batches)[0, 0].item() == 0
        del batches
    assert len(arenas()) == 1
    check(loader)


def test_two_iterators_at_once_have_slots_of_their_own() -> None:
    """Only what no worker uses is given to others."""
    loader = fastload.DataLoader(Stamped(), num_workers=1)
    check(loader)
    first, second = iter(loader), iter(loader)

    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        assert one[0, -1].item() == other[0, 0].item() == number
