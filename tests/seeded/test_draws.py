"""Seeds as a function of seed, epoch, purpose and position; the generators they are for."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import torch

from fastload._seeded import owned as owned_module
from fastload._seeded.generators import GLOBAL, NUMPY, PYTHON, TORCH
from fastload._seeded.owned import find_generators
from fastload._seeded.seeds import COLLATE, SAMPLE, EpochDraws


def test_no_two_positions_share_a_seed():
    """Within an epoch the seeds are a bijection of the position."""
    draws = EpochDraws(7, 3)
    seeds = {draws.seed_of(SAMPLE, TORCH, position) for position in range(100_000)}
    assert len(seeds) == 100_000
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeds_are_the_same_on_another_day():
    """They are pinned: whoever changes them changes every run that is resumed."""
    draws = EpochDraws(7, 3)
    found = [draws.seed_of(SAMPLE, kind, 12_345) for kind in (PYTHON, NUMPY, TORCH)]
    assert found == [3969802320, 1467502947, 1611487411]


@pytest.mark.parametrize(
    "other",
    [
        EpochDraws(8, 3).seed_of(SAMPLE, TORCH, 5),
        EpochDraws(7, 4).seed_of(SAMPLE, TORCH, 5),
        EpochDraws(7, 3).seed_of(COLLATE, TORCH, 5),
        EpochDraws(7, 3).seed_of(SAMPLE, NUMPY, 5),
        EpochDraws(7, 3).seed_of(SAMPLE, TORCH, 5 + 2**32),
    ],
    ids=["seed", "epoch", "purpose", "generator", "beyond 32 bits"],
)
def test_seeds_depend_on(other):
    """Another seed, epoch, purpose, generator or position is another seed."""
    assert EpochDraws(7, 3).seed_of(SAMPLE, TORCH, 5) != other


def draw_one(number):
    """One number of a global generator."""
    return {
        PYTHON: random.random,
        NUMPY: np.random.random,
        TORCH: lambda: torch.rand(()).item(),
    }[number]()


@pytest.mark.parametrize("generator", GLOBAL, ids=lambda each: type(each).__name__)
def test_a_generator_can_be_seeded_compared_and_put_back(generator):
    """Equal seeds give equal numbers, a draw shows, and a saved state comes back whole."""
    before = generator.save()
    generator.seed(5)
    first = draw_one(generator.number)
    generator.seed(5)
    look = generator.look()
    assert generator.look() == look
    assert draw_one(generator.number) == first
    assert generator.look() != look
    generator.restore(before)
    expected = draw_one(generator.number)
    generator.restore(before)
    assert draw_one(generator.number) == expected


def draw_normal(number):
    """One normal variate, of which generators make two at a time."""
    return {
        PYTHON: lambda: random.gauss(0, 1),
        NUMPY: np.random.normal,
        TORCH: lambda: torch.randn(()).item(),
    }[number]()


@pytest.mark.parametrize("generator", GLOBAL, ids=lambda each: type(each).__name__)
def test_cached_normal_variates_are_cleared_saved_and_put_back(generator):
    """The second of two variates belongs to the state."""
    before = generator.save()
    try:
        generator.seed(5)
        first, second = draw_normal(generator.number), draw_normal(generator.number)
        generator.seed(5)
        assert draw_normal(generator.number) == first
        state = generator.save()
        generator.seed(5)
        assert draw_normal(generator.number) == first
        generator.restore(state)
        assert draw_normal(generator.number) == second
    finally:
        generator.restore(before)


class Owner:
    """Owns generators at many places, and refers to itself."""

    __slots__ = ("__dict__", "slot")

    def __init__(self):
        self.torch = torch.Generator()
        self.listed = [1, np.random.default_rng(0), {"key": random.Random(0)}]
        self.slot = np.random.RandomState(0)
        self.partial = functools.partial(print, np.random.Generator(np.random.Philox(0)))
        self.itself = self
        self.same = self.torch
        self.many = list(range(10_000))
        self.entropy = random.SystemRandom()
        self.tensor = torch.zeros(3)


EXPECTED_PATHS = {
    "d.same",
    "d.slot",
    "d.listed[1]",
    "d.listed[2]['key']",
    "d.partial.args[0]",
}


def test_owned_generators_are_found_once_each_wherever_they_are():
    """Attributes, slots, lists, dicts and partials are looked into; cycles end."""
    assert {each.path for each in find_generators(Owner(), "d")} == EXPECTED_PATHS


def test_samples_that_are_lists_of_numbers_are_not_walked_one_by_one(monkeypatch):
    """A dataset of token ids is looked through in no time, and what lies behind them is found."""
    looked, parts = [], owned_module._parts

    def noted(path, each):
        looked.append(path)
        return parts(path, each)

    monkeypatch.setattr(owned_module, "_parts", noted)
    dataset = [{"ids": list(range(500)), "name": "text"} for _ in range(500)]
    find_generators([dataset, random.Random(0)], "d")
    assert len(looked) == 2 + 500 + 500


def test_the_walk_ends_however_much_an_object_holds():
    """The nearest are found."""
    deep = [[[[object()] for _ in range(100)] for _ in range(100)] for _ in range(100)]
    found = find_generators({"deep": deep, "near": random.Random(0)}, "d")
    assert [each.path for each in found] == ["d['near']"]


def test_owned_generators_are_seeded_and_put_back():
    """Each kind follows its seed, and a saved state comes back."""
    for owned in find_generators(Owner(), "d"):
        owned.seed(9)
        state = owned.save()
        first = number_of(owned.generator)
        assert number_of(owned.generator) != first
        owned.restore(state)
        assert number_of(owned.generator) == first
        owned.seed(9)
        assert number_of(owned.generator) == first


def number_of(generator):
    """One number of an owned generator."""
    if isinstance(generator, torch.Generator):
        return torch.rand((), generator=generator).item()
    return generator.random()


def test_the_programs_global_generators_are_nobodys_own():
    """A dataset that holds ``np.random.mtrand._rand`` draws from the global generator."""
    holder = [np.random.mtrand._rand, random._inst, torch.default_generator]
    assert find_generators(holder, "d") == []
