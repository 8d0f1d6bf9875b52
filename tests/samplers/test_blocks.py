"""BlockShuffleSampler: every index once, few blocks open at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload.samplers import BlockShuffleSampler
from tests.rounds import rounds

quick = settings(max_examples=rounds(12, 30), deadline=None, derandomize=True)
block_lengths = st.lists(st.integers(0, 30), max_size=12)


@quick
@given(lengths=block_lengths, window=st.integers(1, 15), seed=st.integers(0, 99))
def test_every_index_comes_once(lengths: list[int], window: int, seed: int) -> None:
    """Whatever the blocks, also empty ones."""
    sampler = BlockShuffleSampler(lengths, window=window, seed=seed)
    assert sorted(sampler) == list(range(sum(lengths)))
    assert len(sampler) == sum(lengths)


@quick
@given(lengths=block_lengths, window=st.integers(1, 15), epoch=st.integers(0, 9), data=st.data())
def test_a_pass_from_a_position_is_the_rest_of_the_whole_pass(
    lengths: list[int], window: int, epoch: int, data: st.DataObject
) -> None:
    """At every position, at a border of blocks and at the end too."""
    position = data.draw(st.integers(0, sum(lengths)))
    sampler = BlockShuffleSampler(lengths, window=window, seed=5)
    sampler.set_epoch(epoch)
    whole = list(sampler)
    assert list(sampler.iter_from(position)) == whole[position:]


@quick
@given(lengths=st.lists(st.integers(1, 30), min_size=1), window=st.integers(1, 15))
def test_a_reader_that_keeps_a_window_reads_each_block_once(
    lengths: list[int], window: int
) -> None:
    """Blocks come in groups of ``window``, and no block comes back after its group."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    blocks = owner[list(BlockShuffleSampler(lengths, window=window, seed=3))]
    last = {block: place for place, block in enumerate(blocks)}
    first = {block: place for place, block in reversed(list(enumerate(blocks)))}
    assert all(
        sum(first[block] <= place <= last[block] for block in first) <= window
        for place in range(len(blocks))
    )


def test_indices_of_a_window_are_mixed() -> None:
    """Two neighbours in the order are usually of different blocks."""
    sampler = BlockShuffleSampler([100] * 40, window=4)
    blocks = np.array(list(sampler)) // 100
    assert np.mean(blocks[1:] != blocks[:-1]) == pytest.approx(0.75, abs=0.03)


def test_blocks_begin_in_every_place() -> None:
    """Over many epochs each of four blocks is the first about equally often."""
    sampler = BlockShuffleSampler([1, 1, 1, 1], window=1, seed=7)
    counts = np.zeros(4)
    for epoch in range(2000):
        sampler.set_epoch(epoch)
        counts[next(iter(sampler))] += 1
    assert np.sum((counts - 500) ** 2 / 500) < 16.27  # Chi-square of 3 degrees, p = 0.001.


def test_each_epoch_has_its_order_and_each_seed_too() -> None:
    """An order is a function of seed and epoch."""

    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = BlockShuffleSampler([20, 30, 25], seed=seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    assert order(1, 2) == order(1, 2)
    assert len({order(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16


def test_the_order_is_the_same_on_every_machine() -> None:
    """Written down once; a change would break every saved state."""
    order = list(BlockShuffleSampler([3, 2, 6], window=2, seed=2**70))
    assert order == [1, 4, 2, 0, 3, 6, 7, 8, 5, 10, 9]


def test_block_lengths_may_come_from_a_dataset() -> None:
    """As from a Parquet dataset with its row groups."""

    class Rows:
        block_lengths = (4, 0, 3)

    assert sorted(BlockShuffleSampler(Rows())) == list(range(7))


@pytest.mark.parametrize("what", [10, range(10), np.zeros((10, 2))])
def test_blocks_of_one_size_are_cut_from_a_length_or_a_dataset(what: object) -> None:
    """The last block is what is left."""
    sampler = BlockShuffleSampler(what, block_size=4)
    assert sampler.block_lengths.tolist() == [4, 4, 2]


@pytest.mark.parametrize(
    ("blocks", "options", "error", "words"),
    [
        ([3, -1], {}, ValueError, "block 1 has the negative length -1"),
        ([1.5], {}, TypeError, "sequence of block lengths"),
        (["3"], {}, TypeError, "sequence of block lengths"),
        (7, {}, TypeError, "give block_size too"),
        ([1], {"window": 0}, ValueError, "window must be at least 1, but got 0"),
        ([1], {"window": 1.5}, TypeError, "window must be an integer"),
        ([1], {"seed": None}, TypeError, "seed must be an integer"),
        (7, {"block_size": 0}, ValueError, "block_size must be at least 1"),
        (-7, {"block_size": 2}, ValueError, "blocks must be at least 0"),
    ],
)
def test_wrong_arguments_are_refused(blocks, options, error, words) -> None:
    """With the value and what was expected."""
    with pytest.raises(error, match=words):
        BlockShuffleSampler(blocks, **options)
