"""WeightedRandomSampler: torch's draws up to torch's limit, right ones beyond, checked weights."""

from __future__ import annotations

import math
from itertools import chain

import numpy as np
import pytest
import torch
import torch.utils.data as torch_data

import fastload
from fastload import WeightedRandomSampler
from fastload.samplers import weighted
from fastload.samplers.weighted import LARGEST_OF_TORCH, drawn_by_race, drawn_by_sum

from .statistics import surprise

UNLIKELY = 4.0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("replacement", [False, True])
def test_many_draws_are_torchs(replacement: bool) -> None:
    """Several chunks of them, and the generator afterwards."""
    weights = torch.rand(50_000, dtype=torch.float64, generator=generator(1))
    drawn = []
    for cls in (WeightedRandomSampler, torch_data.WeightedRandomSampler):
        used = generator(2)
        sampler = cls(weights, 40_000, replacement, generator=used)
        drawn.append((list(sampler), used.get_state().tolist()))
    assert drawn[0] == drawn[1]
    assert {type(index) for index in drawn[0][0]} == {int}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, math.nan], r"weights\[1\] is nan; 1 of 2 are wrong"),
        ([1.0, 2.0, -0.5, -1.0], r"weights\[2\] is -0.5; 2 of 4 are wrong"),
        ([math.inf, 1.0], r"weights\[0\] is inf"),
        ([0.0, 0.0], r"must be positive and finite, but it is 0.0 \(2 weights\)"),
        ([], r"it is 0.0 \(0 weights\)"),
        ([1e308] * 9, r"it is inf \(9 weights\)"),
        ([[1.0]], "1d sequence"),
        (torch.tensor([1.0, -2.0]), r"weights\[1\] is -2.0"),
    ],
)
def test_bad_weights_are_refused_when_the_sampler_is_made(weights, words: str) -> None:
    """Torch refuses them when the epoch begins, without saying which."""
    with pytest.raises(ValueError, match=words):
        WeightedRandomSampler(weights, 3)


def test_more_draws_than_weights_without_replacement_are_refused() -> None:
    """When the sampler is made."""
    with pytest.raises(ValueError, match=r"3 samples can't be drawn from 2 weights"):
        WeightedRandomSampler([1.0, 2.0], 3, replacement=False)


def counts_of_draws(weights: list[float], count: int) -> np.ndarray:
    drawn = chain.from_iterable(drawn_by_sum(np.array(weights), count, generator()))
    return np.bincount(list(drawn), minlength=len(weights))


def test_draws_by_sum_follow_the_weights_and_skip_zeros() -> None:
    """Zeros at the beginning, in the middle and at the end."""
    weights = [0.0, 1.0, 0.0, 2.0, 0.5, 3.5, 0.0]
    counts = counts_of_draws(weights, 70_000)
    assert counts[[0, 2, 6]].tolist() == [0, 0, 0]
    kept = np.array(weights)[[1, 3, 4, 5]] * 10_000
    assert abs(surprise(counts[[1, 3, 4, 5]] / kept * 10_000, 10_000)) < UNLIKELY


def test_draws_by_sum_come_in_the_order_of_the_generator() -> None:
    """Sorting is a matter of speed: each draw stays in its place."""
    weights = np.arange(1.0, 1001.0)
    drawn = list(chain.from_iterable(drawn_by_sum(weights, 5000, generator(3))))
    uniform = torch.rand(5000, dtype=torch.float64, generator=generator(3)).numpy()
    expected = np.searchsorted(np.cumsum(weights), uniform * weights.sum(), side="right")
    assert drawn == expected.tolist()


def test_draws_by_race_follow_the_weights() -> None:
    """The first of several without replacement is index i with its share of the weight."""
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    drawn = np.array([drawn_by_race(weights, 2, generator(seed)) for seed in range(10_000)])
    assert (drawn[:, 0] != drawn[:, 1]).all()
    first = np.bincount(drawn[:, 0], minlength=4) / weights
    assert abs(surprise(first, 1000)) < UNLIKELY
    # Given that 3 came first, the second is drawn from the others.
    second = np.bincount(drawn[drawn[:, 0] == 3, 1], minlength=4)[:3] / weights[:3]
    assert abs(surprise(second, second.mean())) < UNLIKELY


class TestBeyondTorchsLimit:
    """With 2**24 + 5 weights; torch refuses."""

    length = LARGEST_OF_TORCH + 5

    def weights(self) -> torch.Tensor:
        weights = torch.zeros(self.length, dtype=torch.float64)
        weights[-5:] = torch.tensor([0.0, 1.0, 2.0, 1.0, 0.0])
        weights[7] = 4.0
        return weights

    def test_draws_with_replacement_follow_the_weights(self) -> None:
        """Also those at the very end, which a float32 sum would not tell apart."""
        sampler = WeightedRandomSampler(self.weights(), 8000, generator=generator(1))
        drawn = list(sampler)
        last = self.length
        assert set(drawn) == {7, last - 4, last - 3, last - 2}
        counts = np.array([drawn.count(i) for i in (7, last - 4, last - 3, last - 2)])
        assert abs(surprise(counts / np.array([4, 1, 2, 1]), 1000)) < UNLIKELY

    def test_draws_without_replacement_repeat_nothing(self) -> None:
        """All that have a weight come before any that has none."""
        sampler = WeightedRandomSampler(self.weights(), 4, replacement=False)
        last = self.length
        assert sorted(sampler) == [7, last - 4, last - 3, last - 2]

    def test_draws_need_no_more_than_one_number_of_the_global_generator(self) -> None:
        """So what the program draws in between changes nothing, and an epoch can be resumed."""
        sampler = WeightedRandomSampler(self.weights(), 10)
        torch.manual_seed(0)
        whole = list(sampler)
        torch.manual_seed(0)
        broken = [next(indices := iter(sampler))]
        torch.rand(100)
        assert broken + list(indices) == whole

    def test_weights_that_became_bad_are_refused(self) -> None:
        """They may be changed between epochs."""
        sampler = WeightedRandomSampler(self.weights(), 10)
        sampler.weights[3] = -1
        with pytest.raises(ValueError, match=r"weights\[3\] is -1.0"):
            list(sampler)

    def test_torch_still_refuses_so_many(self) -> None:
        """If it no longer does, our limit should move."""
        with pytest.raises(RuntimeError, match=r"2\^24"):
            list(torch_data.WeightedRandomSampler(self.weights(), 1))


def test_one_draw_after_another_over_several_lookups(monkeypatch) -> None:
    """The number of draws looked up together does not matter."""
    weights = np.arange(1.0, 100.0)
    whole = list(chain.from_iterable(drawn_by_sum(weights, 1000, generator())))
    monkeypatch.setattr(weighted, "DRAWN_AT_ONCE", 64)
    assert list(chain.from_iterable(drawn_by_sum(weights, 1000, generator()))) == whole


def test_ours_is_torchs_by_type() -> None:
    """For programs that check."""
    assert issubclass(fastload.WeightedRandomSampler, torch_data.WeightedRandomSampler)
