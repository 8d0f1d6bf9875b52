"""What all samplers with a seed and an epoch promise."""

from __future__ import annotations

import copy
import pickle
import warnings
from itertools import islice

import pytest
import torch
import torch.utils.data as torch_data

from fastload.samplers import (
    BlockShuffleSampler,
    LengthGroupedBatchSampler,
    ShuffleSampler,
    TokenBudgetBatchSampler,
    shard,
)
from fastload.samplers.epochs import nested

LENGTHS = [(7 * i) % 50 + 1 for i in range(120)]
MAKERS = {
    "shuffle": lambda: ShuffleSampler(40, seed=4),
    "blocks": lambda: BlockShuffleSampler([10, 0, 20, 10], window=2, seed=4),
    "lengths": lambda: LengthGroupedBatchSampler(LENGTHS, 4, seed=4, window=3),
    "tokens": lambda: TokenBudgetBatchSampler(LENGTHS, 128, seed=4, window=3),
    "shard": lambda: shard(ShuffleSampler(40, seed=4), 1, 3),
    "contiguous": lambda: shard(ShuffleSampler(40, seed=4), 2, 3, split="contiguous"),
    "batches": lambda: shard(LengthGroupedBatchSampler(LENGTHS, 4, seed=4), 1, 3),
    "drawn": lambda: shard(torch_data.RandomSampler(range(40)), 1, 3),
}


@pytest.fixture(params=sorted(MAKERS))
def make(request):
    return MAKERS[request.param]


def whole(make, epoch: int = 0) -> list:
    sampler = make()
    sampler.set_epoch(epoch)
    return list(sampler)


def test_length_is_what_a_pass_yields(make) -> None:
    """In each epoch."""
    for epoch in range(5):
        sampler = make()
        sampler.set_epoch(epoch)
        assert len(sampler) == len(list(sampler))


def test_orders_are_functions_of_the_epoch(make) -> None:
    """Equal in equal epochs, different in different ones."""
    assert whole(make, 3) == whole(make, 3)
    assert whole(make, 3) != whole(make, 4)


def test_nothing_is_drawn_from_the_program(make) -> None:
    """Ranks agree whatever their generators are, and the program's go on signals_deferred."""
    torch.manual_seed(1)
    first = whole(make)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert whole(make) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pass_can_begin_anywhere(make) -> None:
    """``iter_from`` gives the rest, down to nothing."""
    expected = whole(make, 2)
    for position in range(len(expected) + 1):
        sampler = make()
        sampler.set_epoch(2)
        assert list(sampler.iter_from(position)) == expected[position:]


def test_a_state_is_where_the_newest_pass_stands(make) -> None:
    """At every position; another sampler goes on there, once."""
    expected = whole(make, 2)
    for taken in range(len(expected) + 1):
        sampler = make()
        sampler.set_epoch(2)
        assert list(islice(sampler, taken)) == expected[:taken]
        state = pickle.loads(pickle.dumps(sampler.state_dict()))
        assert state == {"seed": sampler.seed, "epoch": 2, "position": taken}
        other = make()
        other.load_state_dict(state)
        other.set_epoch(2)  # As a training loop does before each epoch.
        assert list(other) == expected[taken:]
        other.set_epoch(3)
        assert list(other) == whole(make, 3)


def test_an_iterator_too_many_does_not_lose_a_loaded_position(make) -> None:
    """Loaders with workers make one that they never use."""
    expected = whole(make)
    sampler = make()
    sampler.load_state_dict({"seed": sampler.seed, "epoch": 0, "position": 3})
    iter(sampler)
    assert list(sampler) == expected[3:]


def test_another_epoch_forgets_a_loaded_position(make) -> None:
    """The position is that of its epoch."""
    sampler = make()
    sampler.load_state_dict({"seed": sampler.seed, "epoch": 1, "position": 3})
    sampler.set_epoch(2)
    assert list(sampler) == whole(make, 2)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "expected a state with seed, epoch and position"),
        (3, "expected a state with"),
        ({"seed": 9, "epoch": 0, "position": 0}, "seed 9; this one has seed"),
        ({"seed": None, "epoch": -1, "position": 0}, "epoch must be at least 0"),
    ],
)
def test_states_that_do_not_fit_are_refused(make, state, words: str) -> None:
    """They would give another order."""
    sampler = make()
    if isinstance(state, dict) and state.get("seed", 0) is None:
        state = {**state, "seed": sampler.seed}
    with pytest.raises(ValueError, match=words):
        sampler.load_state_dict(state)


@pytest.mark.parametrize("epoch", [-1, 1.5, None])
def test_epochs_are_whole_numbers(make, epoch) -> None:
    """From zero on."""
    with pytest.raises((TypeError, ValueError), match="epoch must be"):
        make().set_epoch(epoch)


def test_copies_go_their_own_way(make) -> None:
    """Also a sampler in the middle of a pass can be copied and pickled."""
    sampler = make()
    next(iter(sampler))
    for other in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        other.set_epoch(1)
        assert list(other) == whole(make, 1)


def test_a_forgotten_set_epoch_is_told_once() -> None:
    """When a finished epoch begins again."""
    sampler = ShuffleSampler(5)
    list(sampler)
    with pytest.warns(UserWarning, match=r"epoch 0 begins a second time.*set_epoch"):
        list(sampler)
    list(sampler)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ShuffleSampler(5),
        lambda: BlockShuffleSampler([5]),
        lambda: torch_data.BatchSampler(torch_data.RandomSampler(range(5)), 2, False),
    ],
)
def test_a_forgotten_set_epoch_of_a_shard_is_told_once(make) -> None:
    """By the shard alone, whatever it is of."""
    sampler = shard(make(), 0, 2)
    list(sampler)
    with pytest.warns(UserWarning, match="Shard: epoch 0 begins a second time") as told:
        list(sampler)
    assert len(told) == 1
    list(sampler)


def test_what_is_no_forgotten_set_epoch_is_not_told() -> None:
    """A pass that was left early; an epoch chosen again; an order that is meant to repeat."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler = ShuffleSampler(5)
        next(iter(sampler))
        list(sampler)
        sampler.set_epoch(0)
        list(sampler)
        for repeated in (
            LengthGroupedBatchSampler(LENGTHS, 4, shuffle=False),
            shard(torch_data.SequentialSampler(range(5)), 0, 2),
            shard(torch_data.RandomSampler(range(5), generator=torch.Generator()), 0, 2),
        ):
            list(repeated)
            list(repeated)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_loader_saves_and_restores_the_sampler(workers: int) -> None:
    """Its state is that of the batches delivered, with workers too."""
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def loader():
        sampler = ShuffleSampler(40, seed=4)
        sampler.set_epoch(1)
        return torchdata.StatefulDataLoader(
            range(40), batch_size=3, sampler=sampler, num_workers=workers
        )

    expected = [batch.tolist() for batch in loader()]
    first = loader()
    batches = iter(first)
    seen = [next(batches).tolist() for _ in range(4)]
    state = first.state_dict()
    del batches
    second = loader()
    second.load_state_dict(state)
    assert seen + [batch.tolist() for batch in second] == expected


def test_looking_for_samplers_inside_ends() -> None:
    """Also in an object that invents every attribute it is asked for."""

    class Anything:
        def __getattr__(self, name: str):
            return Anything()

    assert len(nested(Anything())) == 16
    assert nested(None) == []
    batches = torch_data.BatchSampler(inner := ShuffleSampler(5), 2, drop_last=False)
    assert nested(outer := shard(batches, 0, 2)) == [outer, batches, inner]
