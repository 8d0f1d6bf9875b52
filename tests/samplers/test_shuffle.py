"""ShuffleSampler: every index once, from any position, of any number."""

from __future__ import annotations

import tracemalloc
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload.samplers import ShuffleSampler
from fastload.samplers.permutation import CHUNK, LARGEST_TABLE
from tests.rounds import rounds

quick = settings(max_examples=rounds(12, 40), deadline=None, derandomize=True)


def order(length: int, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = ShuffleSampler(length, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


@quick
@given(length=st.integers(0, 300), seed=st.integers(0, 2**70), epoch=st.integers(0, 99))
def test_every_index_comes_once(length: int, seed: int, epoch: int) -> None:
    """In an order of its own."""
    assert sorted(order(length, seed, epoch)) == list(range(length))
    assert len(ShuffleSampler(length)) == length


@pytest.mark.parametrize("length", [5 * CHUNK, LARGEST_TABLE + 1])
@pytest.mark.parametrize("position", [0, 1, CHUNK - 1, CHUNK, LARGEST_TABLE])
def test_a_pass_from_a_position_is_the_rest_of_the_whole_pass(length: int, position: int) -> None:
    """Across the borders of chunks."""
    assert list(ShuffleSampler(length, 3).iter_from(position)) == order(length, 3)[position:]


def test_orders_of_epochs_and_seeds_differ() -> None:
    """And are functions of both."""
    orders = {tuple(order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    assert order(50, 3, 2) == order(50, 3, 2)


@pytest.mark.parametrize("position", [0, 123_456_789, 2**39])
def test_huge_lengths_take_no_memory(position: int) -> None:
    """Anywhere in an epoch of 2**40 indices; they are Python integers."""
    tracemalloc.start()
    taken = list(islice(ShuffleSampler(2**40, 1).iter_from(position), 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert len(set(taken)) == 1000
    assert {type(index) for index in taken} == {int}
    assert min(taken) >= 0
    assert max(taken) < 2**40


def test_length_may_come_from_a_dataset() -> None:
    """As with torch's samplers."""
    assert sorted(ShuffleSampler(np.zeros((4, 2)))) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((-1,), ValueError, "length must be at least 0, but got -1"),
        ((2**62 + 1,), ValueError, "at most"),
        ((1.5,), TypeError, "length must be an integer, but got 1.5"),
        ((True,), TypeError, "length must be an integer, but got True"),
        ((3, -1), ValueError, "seed must be at least 0"),
        ((3, "a"), TypeError, "seed must be an integer, but got 'a'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, words) -> None:
    """With the value and what was expected."""
    with pytest.raises(error, match=words):
        ShuffleSampler(*arguments)
