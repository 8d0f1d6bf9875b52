"""The computed permutation: a permutation, and a random one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload.samplers.permutation import LARGEST, LARGEST_TABLE, Permutation
from tests.rounds import rounds

from .statistics import grid, surprise

quick = settings(max_examples=rounds(12, 30), deadline=None, derandomize=True)
NETWORK = 70_001  # Above the largest table, so computed by the network.
UNLIKELY = 4.0  # Standard deviations.


def whole(length: int, *key: int) -> np.ndarray:
    return Permutation(length, *key)(np.arange(length))


@quick
@given(length=st.integers(0, 300), seed=st.integers(0, 2**80))
def test_small_permutations_have_every_element_once(length: int, seed: int) -> None:
    """None and one element too, and seeds of any size."""
    assert sorted(whole(length, seed).tolist()) == list(range(length))


@quick
@given(length=st.integers(LARGEST_TABLE - 1, 2 * LARGEST_TABLE), seed=st.integers(0, 2**64))
def test_large_permutations_have_every_element_once(length: int, seed: int) -> None:
    """On both sides of the border between table and network."""
    counts = np.bincount(whole(length, seed), minlength=length)
    assert counts.size == length
    assert (counts == 1).all()


@pytest.mark.parametrize("length", [10**9, 2**40, 2**40 + 1, LARGEST])
def test_huge_permutations_stay_within_their_range_and_repeat_nothing(length: int) -> None:
    """Looked at in three places."""
    permutation = Permutation(length, 3)
    for start in (0, length // 2, length - 50_000):
        found = permutation(np.arange(start, start + 50_000))
        assert found.min() >= 0
        assert found.max() < length
        assert np.unique(found).size == found.size


def test_an_element_does_not_depend_on_what_it_is_asked_with() -> None:
    """So a pass can begin anywhere."""
    permutation = Permutation(10**9, 5)
    positions = np.arange(1000, 2000)
    one_by_one = np.concatenate([permutation(positions[i : i + 1]) for i in range(1000)])
    assert np.array_equal(permutation(positions), one_by_one)


def test_the_values_are_the_same_on_every_machine() -> None:
    """Written down once; a change would break every saved state."""
    assert whole(8, 1, 2).tolist() == [6, 7, 2, 4, 5, 0, 1, 3]
    billion = Permutation(10**9, 1, 2)(np.arange(4))
    assert billion.tolist() == [425155309, 417065752, 959278750, 444899954]


@pytest.mark.parametrize("length", [-1, LARGEST + 1])
def test_lengths_out_of_range_are_refused(length: int) -> None:
    """With the value."""
    with pytest.raises(ValueError, match=str(length)):
        Permutation(length, 0)


def test_all_orders_of_five_are_equally_likely() -> None:
    """120 of them over 24,000 seeds."""
    numbers = {order: n for n, order in enumerate(itertools.permutations(range(5)))}
    orders = [numbers[tuple(whole(5, seed).tolist())] for seed in range(24_000)]
    assert abs(surprise(np.bincount(orders, minlength=120), 200)) < UNLIKELY


@pytest.mark.parametrize("length", [1000, NETWORK, 10**9, 2**40])
def test_the_first_element_is_any_for_some_seed(length: int) -> None:
    """Over 6,400 seeds, in 64 classes."""
    first = np.array([Permutation(length, seed)(np.arange(1))[0] for seed in range(6400)])
    assert abs(surprise(np.bincount(first * 64 // length, minlength=64), 100)) < UNLIKELY


@pytest.mark.parametrize("length", [1000, NETWORK, 10**9])
def test_the_first_two_elements_are_any_pair_for_some_seed(length: int) -> None:
    """Over 6,400 seeds, in 8 by 8 classes."""
    pairs = np.array([Permutation(length, seed)(np.arange(2)) for seed in range(6400)])
    assert abs(surprise(grid(*pairs.T, length, 8), 100)) < UNLIKELY


@pytest.mark.parametrize("length", [NETWORK, 2**17, 100_003])
@pytest.mark.parametrize("seed", range(3))
def test_elements_are_spread_over_positions(length: int, seed: int) -> None:
    """Where an element lands says nothing about which it is: 20 by 20 classes."""
    counts = grid(np.arange(length), whole(length, seed), length, 20)
    assert abs(surprise(counts, length / 400, 19 * 19)) < UNLIKELY


@pytest.mark.parametrize("distance", [1, 2, 265, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_neighbours_in_the_order_are_independent(distance: int, seed: int) -> None:
    """Also those as far apart as the network's rows (265)."""
    order = whole(NETWORK, seed)
    counts = grid(order[distance:], order[:-distance], NETWORK, 20)
    assert abs(surprise(counts, (NETWORK - distance) / 400, 19 * 19)) < UNLIKELY
    steps = (order[distance:] - order[:-distance]) % NETWORK
    counts = np.bincount(steps * 100 // NETWORK, minlength=100)
    assert abs(surprise(counts, (NETWORK - distance) / 100)) < UNLIKELY


def test_neighbours_in_the_order_of_a_billion_are_independent() -> None:
    """The first 400,000 of 10**9."""
    order = Permutation(10**9, 11)(np.arange(400_000))
    counts = grid(order[1:], order[:-1], 10**9, 40)
    assert abs(surprise(counts, 399_999 / 1600, 39 * 39)) < UNLIKELY


@pytest.mark.parametrize("length", [1000, NETWORK])
def test_fixed_points_are_as_many_as_by_chance(length: int) -> None:
    """Their number is Poisson distributed with mean and variance 1."""
    found = [int(np.sum(whole(length, seed) == np.arange(length))) for seed in range(400)]
    assert np.mean(found) == pytest.approx(1, abs=UNLIKELY / np.sqrt(400))
    assert np.var(found) == pytest.approx(1, abs=UNLIKELY * np.sqrt(3 / 400))


@pytest.mark.parametrize("keys", [((1, 0), (1, 1)), ((1,), (2,)), ((1, 0), (2, 0)), ((0,), (0, 0))])
def test_permutations_of_neighbouring_seeds_and_epochs_are_independent(keys) -> None:
    """20 by 20 classes of what two of them have in one position."""
    counts = grid(whole(NETWORK, *keys[0]), whole(NETWORK, *keys[1]), NETWORK, 20)
    assert abs(surprise(counts, NETWORK / 400, 19 * 19)) < UNLIKELY
