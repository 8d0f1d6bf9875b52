"""RandomSampler, SubsetRandomSampler and DistributedSampler: torch's order, held as an array."""

from __future__ import annotations

import tracemalloc
from itertools import islice

import numpy as np
import pytest
import torch
import torch.utils.data as torch_data
from hypothesis import given, settings
from hypothesis import strategies as st

import fastload
from fastload.samplers.random import CHUNK, permutation
from tests.rounds import rounds

quick = settings(max_examples=rounds(12, 40), deadline=None, derandomize=True)
LARGE = 3 * CHUNK + 5


def left_after(cls, count: int, *arguments, **options):
    """The first indices of a pass, and the generators as they are then."""
    torch.manual_seed(4)
    generator = torch.Generator().manual_seed(5)
    if options.pop("own", False):
        options["generator"] = generator
    taken = list(islice(cls(*arguments, **options), count))
    return taken, torch.get_rng_state().tolist(), generator.get_state().tolist()


@quick
@given(
    length=st.integers(1, 100),
    count=st.integers(0, 400),
    num_samples=st.none() | st.integers(1, 400),
    replacement=st.booleans(),
    own=st.booleans(),
)
def test_a_pass_left_anywhere_leaves_the_generators_as_torch_does(
    length: int, count: int, num_samples: int | None, replacement: bool, own: bool
) -> None:
    """Drawn is what torch has drawn by then: not earlier, not later."""
    options = {"num_samples": num_samples, "replacement": replacement, "own": own}
    ours, theirs = (
        left_after(cls, count, range(length), **options)
        for cls in (fastload.RandomSampler, torch_data.RandomSampler)
    )
    assert ours == theirs


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("replacement", [False, True])
def test_several_chunks_are_torchs_indices(replacement: bool, own: bool) -> None:
    """Longer than what is made Python integers at a time."""
    options = {"replacement": replacement, "num_samples": 2 * LARGE + 3, "own": own}
    ours, theirs = (
        left_after(cls, 10**9, range(LARGE), **options)
        for cls in (fastload.RandomSampler, torch_data.RandomSampler)
    )
    assert ours == theirs
    assert {type(index) for index in ours[0]} == {int}


def test_subset_of_several_chunks_is_torchs() -> None:
    """The elements given, in torch's order."""
    indices = np.arange(7, LARGE + 7).tolist()
    ours, theirs = (
        left_after(cls, LARGE, indices, own=True)
        for cls in (fastload.SubsetRandomSampler, torch_data.SubsetRandomSampler)
    )
    assert ours == theirs


def test_an_iterator_that_is_not_used_draws_nothing() -> None:
    """Loaders make one too many."""
    before = torch.get_rng_state()
    iter(fastload.RandomSampler(range(9)))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_index_takes_four_bytes() -> None:
    """And a chunk of Python integers beside; torch's list takes forty."""
    length = 1_000_000
    sampler = fastload.RandomSampler(range(length))
    next(iter(sampler))
    tracemalloc.start()
    indices = iter(sampler)
    total = sum(indices)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == length * (length - 1) // 2
    assert peak < 4 * length + 50 * CHUNK


@pytest.mark.parametrize("length", [1, 2, 33, 30_000, LARGE])
def test_narrow_numbers_are_drawn_as_wide_ones(length: int) -> None:
    """``randperm`` draws the same for int32 as for int64."""
    ours, theirs = (torch.Generator().manual_seed(length) for _ in range(2))
    expected = torch.randperm(length, generator=theirs)
    assert permutation(length, ours).tolist() == expected.tolist()
    assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("own", [False, True])
def test_the_loaders_own_sampler_is_ours(own: bool) -> None:
    """It is torch's by type, with the attributes that trainers read, in both places."""
    generator = torch.Generator() if own else None
    loader = fastload.DataLoader(range(9), batch_size=2, shuffle=True, generator=generator)
    assert type(loader.sampler) is fastload.RandomSampler
    assert isinstance(loader.sampler, torch_data.RandomSampler)
    assert loader.batch_sampler.sampler is loader.sampler
    theirs = torch_data.DataLoader(range(9), batch_size=2, shuffle=True, generator=generator)
    assert vars(loader.sampler) == vars(theirs.sampler)


def test_a_sampler_that_was_given_to_the_loader_stays_what_it_is() -> None:
    """It belongs to the program."""
    sampler = torch_data.RandomSampler(range(9))
    loader = fastload.DataLoader(range(9), sampler=sampler)
    assert loader.sampler is sampler
    assert type(sampler) is torch_data.RandomSampler


@pytest.mark.parametrize("sampler", [torch_data.RandomSampler, fastload.RandomSampler])
def test_distributed_sampler_refuses_a_sampler(sampler) -> None:
    """Torch's yields positions, not what the sampler would have drawn."""
    with pytest.raises(TypeError, match=r"the sampler RandomSampler.*use fastload\.shard"):
        fastload.DistributedSampler(sampler(range(10)), num_replicas=2, rank=0)


@pytest.mark.parametrize("drop_last", [False, True])
def test_distributed_sampler_of_a_dataset_that_changed_its_length_raises(drop_last: bool) -> None:
    """As torch's does, where indices would be missing."""
    for cls in (fastload.DistributedSampler, torch_data.DistributedSampler):
        dataset = list(range(11))
        sampler = cls(dataset, 2, 0, drop_last=drop_last)
        if drop_last:
            del dataset[5:]
        else:
            dataset += range(5)
        with pytest.raises(AssertionError):
            iter(sampler)
