"""shard: all ranks together have what one process has."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain, count, islice

import numpy as np
import pytest
import torch
import torch.utils.data as torch_data
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload.samplers import (
    BatchSampler,
    BlockShuffleSampler,
    DistributedSampler,
    LengthGroupedBatchSampler,
    RandomSampler,
    Sampler,
    ShuffleSampler,
    SubsetRandomSampler,
    TokenBudgetBatchSampler,
    WeightedRandomSampler,
    shard,
)
from tests.rounds import rounds

quick = settings(max_examples=rounds(12, 30), deadline=None, derandomize=True)
LENGTHS = [(7 * i) % 50 + 1 for i in range(70)]


class FromEverywhere(Sampler):
    """Draws from all global generators, in the middle of its pass too."""

    def __len__(self) -> int:
        return 30

    def __iter__(self) -> Iterator[int]:
        for _ in range(10):
            yield int(torch.randint(100, ()))
            yield int(np.random.randint(100))
            yield random.randrange(100)


SAMPLERS = {
    "range": lambda: range(23),
    "random": lambda: RandomSampler(range(23)),
    "torch's random": lambda: torch_data.RandomSampler(range(23)),
    "with replacement": lambda: RandomSampler(range(23), True, 31),
    "own generator": lambda: RandomSampler(range(23), generator=torch.Generator().manual_seed(3)),
    "subset": lambda: SubsetRandomSampler([4, 8, 15, 16, 23, 42, 108]),
    "weighted": lambda: WeightedRandomSampler([1.0, 2.0, 3.0], 50),
    "drawn everywhere": FromEverywhere,
    "shuffle": lambda: ShuffleSampler(23, seed=1),
    "blocks": lambda: BlockShuffleSampler([5, 10, 8], window=2),
    "batches": lambda: BatchSampler(RandomSampler(range(23)), 3, drop_last=False),
    "batches of ours": lambda: BatchSampler(ShuffleSampler(23), 3, drop_last=True),
    "lengths": lambda: LengthGroupedBatchSampler(LENGTHS, 4),
    "tokens": lambda: TokenBudgetBatchSampler(LENGTHS, 100),
    "nothing": lambda: range(0),
}


def parts(make, world_size: int, even: str = "pad", epoch: int = 0, **options) -> list[list]:
    """What each rank gets; each has other random numbers, as ranks do."""
    found = []
    for rank in range(world_size):
        torch.manual_seed(rank)
        np.random.seed(rank)
        random.seed(rank)
        sampler = shard(make(), rank, world_size, even, **options)
        sampler.set_epoch(epoch)
        found.append(list(sampler))
        assert len(sampler) == len(found[-1])
    return found


def stream(make, epoch: int = 0) -> list:
    """What one process gets."""
    return parts(make, 1, epoch=epoch)[0]


@pytest.mark.parametrize("split", ["stride", "contiguous"])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_all_ranks_together_have_the_stream_of_one_process(name: str, split: str) -> None:
    """Whatever the sampler draws from; the order of the stream is that of rounds, or of ranks."""
    expected = stream(SAMPLERS[name], epoch=2)
    for world_size in (1, 2, 3, 7, 40):
        dealt = parts(SAMPLERS[name], world_size, "none", epoch=2, split=split)
        together = (
            list(chain.from_iterable(dealt))
            if split == "contiguous"
            else [dealt[i % world_size][i // world_size] for i in range(len(expected))]
        )
        assert together == expected


@pytest.mark.parametrize("split", ["stride", "contiguous"])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_padded_ranks_have_equally_many_and_repeat_the_first(name: str, split: str) -> None:
    """As torch's DistributedSampler pads."""
    make = SAMPLERS[name]
    expected = stream(make)
    for world_size in (2, 5, 40):
        dealt = parts(make, world_size, split=split)
        size = -(-len(expected) // world_size)
        assert {len(part) for part in dealt} == {size}
        padded = [expected[i % len(expected)] for i in range(size * world_size)]
        if split == "contiguous":
            assert list(chain.from_iterable(dealt)) == padded
        else:
            assert dealt == [padded[rank::world_size] for rank in range(world_size)]


@pytest.mark.parametrize("split", ["stride", "contiguous"])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_dropping_leaves_out_the_last_only(name: str, split: str) -> None:
    """Fewer than there are ranks."""
    make = SAMPLERS[name]
    expected = stream(make)
    for world_size in (2, 5, 40):
        dealt = parts(make, world_size, "drop", split=split)
        size = len(expected) // world_size
        assert {len(part) for part in dealt} == {size}
        kept = expected[: size * world_size]
        if split == "contiguous":
            assert list(chain.from_iterable(dealt)) == kept
        else:
            assert dealt == [kept[rank::world_size] for rank in range(world_size)]


@quick
@given(
    total=st.integers(0, 40),
    world_size=st.integers(1, 9),
    even=st.sampled_from(["pad", "mask", "drop", "none"]),
    split=st.sampled_from(["stride", "contiguous"]),
)
def test_masks_and_merged_parts_are_the_stream(
    total: int, world_size: int, even: str, split: str
) -> None:
    """What is not masked is each element once; merged, it is in the order of one process."""
    shards = [
        shard(range(total), rank, world_size, even, split=split) for rank in range(world_size)
    ]
    dealt = [list(one) for one in shards]
    masks = [one.mask().tolist() for one in shards]
    assert [len(mask) for mask in masks] == [len(part) for part in dealt]
    own = [
        element
        for part, mask in zip(dealt, masks, strict=True)
        for element, is_own in zip(part, mask, strict=True)
        if is_own
    ]
    kept = total - total % world_size if even == "drop" else total
    assert sorted(own) == list(range(kept))
    assert shards[0].merge(dealt) == list(range(kept))


@quick
@given(length=st.integers(1, 60), world_size=st.integers(1, 9), drop=st.booleans())
def test_shards_of_positions_are_torchs_distributed_sampler(
    length: int, world_size: int, drop: bool
) -> None:
    """Padding and dropping are torch's, where torch has an answer."""
    for rank in range(world_size):
        ours = list(shard(range(length), rank, world_size, "drop" if drop else "pad"))
        theirs = torch_data.DistributedSampler(
            range(length), world_size, rank, shuffle=False, drop_last=drop
        )
        assert ours == (list(theirs) if length >= world_size or not drop else [])


def test_a_metric_over_all_ranks_is_that_of_one_process() -> None:
    """Ten samples on four ranks: nothing counts twice."""
    values = torch.rand(10, generator=torch.Generator().manual_seed(0))
    shards = [shard(range(10), rank, 4, "mask") for rank in range(4)]
    merged = shards[0].merge([values[list(one)].tolist() for one in shards])
    assert merged == values.tolist()


def test_masks_split_into_batches_fit_the_loaders_batches() -> None:
    """As the documentation shows it."""
    sampler = shard(range(10), 3, 4, "mask")
    loader = torch_data.DataLoader(range(10), batch_size=2, sampler=sampler)
    kept = [batch[own].tolist() for batch, own in zip(loader, sampler.mask().split(2), strict=True)]
    assert kept == [[3, 7], []]


def test_parts_of_other_lengths_are_not_merged() -> None:
    """They are not what the ranks have yielded."""
    with pytest.raises(ValueError, match=r"the ranks have \[2, 2\] elements, but got 2 parts"):
        shard(range(4), 0, 2).merge([[1, 2], [3]])


def test_endless_samplers_without_length_can_be_dealt() -> None:
    """A rank's part has no length then."""
    endless = shard(iter_of(count), 1, 3)
    assert list(islice(endless, 4)) == [1, 4, 7, 10]
    with pytest.raises(TypeError, match="the sampler has no length"):
        len(endless)
    with pytest.raises(TypeError, match="split='contiguous' no meaning"):
        shard(iter_of(count), 1, 3, split="contiguous")


def iter_of(make):
    class Source:
        def __iter__(self) -> Iterator[int]:
            return iter(make())

    return Source()


def test_samplers_without_length_are_padded_too() -> None:
    """The end is noticed when it comes."""
    source = iter_of(lambda: iter(range(7)))
    assert [list(shard(source, rank, 3)) for rank in range(3)] == [[0, 3, 6], [1, 4, 0], [2, 5, 1]]


@pytest.mark.parametrize("split", ["stride", "contiguous"])
def test_an_error_of_the_sampler_comes_in_its_place(split: str) -> None:
    """After the elements before it, on every rank."""

    class Failing(list):
        def __iter__(self) -> Iterator[int]:
            yield from range(7)
            raise OSError("the list of files is gone")

    for rank in range(2):
        indices = iter(shard(Failing(range(20)), rank, 2, split=split))
        taken = []
        with pytest.raises(OSError, match="the list of files is gone"):
            for index in indices:
                taken.append(index)
        assert len(taken) == (3 if split == "stride" else 7 * (rank == 0))


def test_set_epoch_reaches_samplers_inside() -> None:
    """Through batch samplers too; and a trainer's ``batch_sampler.sampler.set_epoch`` works."""
    inner = ShuffleSampler(9)
    outer = shard(BatchSampler(inner, 2, drop_last=False), 0, 2)
    outer.sampler.set_epoch(5)
    assert (outer.epoch, inner.epoch) == (5, 5)


def test_a_shard_begins_in_the_epoch_of_its_sampler() -> None:
    """Which was set before it was sharded."""
    inner = ShuffleSampler(9)
    inner.set_epoch(3)
    assert shard(inner, 0, 1).epoch == 3


def test_seeds_choose_what_global_generators_give() -> None:
    """The common seed is an argument."""
    orders = [stream(lambda: RandomSampler(range(23)))]
    orders += [parts(SAMPLERS["random"], 1, seed=seed)[0] for seed in (0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_a_generator_of_the_sampler_is_used_as_it_is() -> None:
    """So the stream is the one that the sampler alone has; the program seeds ranks alike."""
    alone = list(SAMPLERS["own generator"]())
    assert stream(SAMPLERS["own generator"]) == alone


def test_trainers_see_a_distributed_sampler() -> None:
    """Lightning, Ray and Composer leave it alone then."""
    sampler = shard(LengthGroupedBatchSampler(LENGTHS, 4), 1, 3, "drop")
    assert isinstance(sampler, torch_data.DistributedSampler)
    assert (sampler.rank, sampler.num_replicas, sampler.drop_last) == (1, 3, True)
    assert sampler.batch_size == 4


def test_contiguous_shards_keep_blocks_together() -> None:
    """Each rank reads blocks of its own, but for those at the borders."""
    lengths = [100] * 30
    make = lambda: BlockShuffleSampler(lengths, window=1, seed=2)  # noqa: E731
    blocks = [{i // 100 for i in part} for part in parts(make, 3, split="contiguous")]
    assert [len(found) for found in blocks] == [10, 10, 10]


@pytest.mark.parametrize(
    "distributed",
    [
        lambda: DistributedSampler(range(9), 2, 0),
        lambda: BatchSampler(torch_data.DistributedSampler(range(9), 2, 0), 2, False),
        lambda: shard(range(9), 0, 2),
    ],
)
def test_what_is_distributed_already_is_refused(distributed) -> None:
    """Each rank would get a part of its part, silently."""
    with pytest.raises(TypeError, match="gives each rank its part already"):
        shard(distributed(), 0, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((range(3), 2, 2), ValueError, r"rank must be below world_size \(2\), but got 2"),
        ((range(3), -1, 2), ValueError, "rank must be at least 0"),
        ((range(3), 0, 0), ValueError, "world_size must be at least 1"),
        ((range(3), 0), ValueError, "belong together, but got rank=0 and world_size=None"),
        ((range(3), None, 2), ValueError, "belong together"),
        ((range(3), 0.0, 2), TypeError, "rank must be an integer"),
        ((range(3), 0, 2, "uneven"), ValueError, "even must be one of .*'uneven'"),
        ((3, 0, 2), TypeError, "takes a sampler or batch sampler, but got 3"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, words: str) -> None:
    """With the value and what was expected."""
    with pytest.raises(error, match=words):
        shard(*arguments)


def test_unknown_splits_are_refused() -> None:
    """With what there is."""
    with pytest.raises(ValueError, match=r"split must be one of .*'rows'"):
        shard(range(3), 0, 2, split="rows")
