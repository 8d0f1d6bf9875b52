"""What arrives depends on dataset, sampler, seed, epoch and position, and on nothing else."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler, TensorDataset

import fastload

from .datasets import EVERYTHING, Drawing, Many, joined, states_of_the_program

SETTINGS = {
    "one worker": {"num_workers": 1},
    "three workers": {"num_workers": 3},
    "another batch size": {"batch_size": 5},
    "two ranks": {"ranks": 2, "num_workers": 2, "batch_size": 4},
    "three ranks": {"ranks": 3, "batch_size": 2},
    "kept workers": {"num_workers": 2, "persistent_workers": True},
    "forkserver": {
        "num_workers": 1,
        "multiprocessing_context": "forkserver",
        "persistent_workers": True,
    },
}
SPAWNED = {"num_workers": 2, "multiprocessing_context": "spawn"}


@pytest.fixture(scope="module")
def stream():
    """The stream of one process without workers."""
    return joined(Drawing(61, EVERYTHING), batch_size=8, shuffle=True)


@pytest.mark.parametrize(
    "setting",
    [
        *(pytest.param(setting, id=name) for name, setting in SETTINGS.items()),
        pytest.param(SPAWNED, id="spawn", marks=pytest.mark.exhaustive),
    ],
)
def test_the_stream_is_the_same_bytes_in_every_setting(stream, setting):
    """Workers, start methods, ranks and batch size change nothing, random numbers included."""
    found = joined(Drawing(61, EVERYTHING), **{"batch_size": 8, "shuffle": True, **setting})
    assert all(map(torch.equal, found, stream))


def test_every_sample_comes_once_and_epochs_differ(stream):
    """Two epochs are two orders of all samples, without any call of ``set_epoch``."""
    first, second = stream
    assert sorted(first[:, 0].tolist()) == list(range(61))
    assert sorted(second[:, 0].tolist()) == list(range(61))
    assert not torch.equal(first, second)


def test_no_two_samples_share_a_draw(stream):
    """All numbers of one generator differ, over samples and epochs."""
    drawn = torch.cat(stream)[:, 1:]
    for column in drawn.T:
        assert len(column.unique()) == len(column)


def test_the_stream_is_the_same_on_another_day():
    """A few samples are pinned: whoever changes them changes every run that is resumed."""
    (found,) = joined(Drawing(5, ("python", "numpy")), epochs=1, batch_size=2, shuffle=True)
    assert [[round(number, 4) for number in row] for row in found.tolist()] == PINNED


PINNED = [
    [0.0, -0.6224, 0.1491],
    [1.0, -1.7382, 0.3008],
    [4.0, 0.0802, 0.8522],
    [2.0, 3.3151, 1.762],
    [3.0, -1.9579, 0.6996],
]


@pytest.mark.parametrize("rarely", [False, True], ids=["always", "rarely"])
@pytest.mark.parametrize("kind", EVERYTHING)
@pytest.mark.parametrize("workers", [0, 2])
def test_each_generator_is_found_wherever_a_sample_draws_first(kind, rarely, workers):
    """A dataset that draws from one generator, from the first sample on or later."""
    options = {"batch_size": 4, "epochs": 1}
    expected = joined(Drawing(40, (kind,), rarely=rarely), **{**options, "batch_size": 1})
    found = joined(Drawing(40, (kind,), rarely=rarely), num_workers=workers, **options)
    assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_loads_whole_batches_gives_the_same_stream(workers):
    """If ``__getitems__`` is seen to draw, samples are loaded one by one from then on."""
    expected = joined(Drawing(40, ("torch",), rarely=True), epochs=1, batch_size=4)
    found = joined(Many(40, ("torch",), rarely=True), epochs=1, batch_size=4, num_workers=workers)
    assert torch.equal(found[0], expected[0])


class CountsLoads(Drawing):
    """Counts how often a sample is loaded."""

    loads = 0

    def __getitem__(self, index):
        self.loads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize(("redo", "loads"), [(True, 48), (False, 40)])
def test_only_the_first_batch_that_draws_is_loaded_again(redo, loads):
    """Twice, to tell who draws; none with ``redo=False``, which sets all from the start."""
    dataset = CountsLoads(40, ("numpy",))
    found = joined(dataset, epochs=1, batch_size=4, redo=redo)
    assert dataset.loads == loads
    assert torch.equal(found[0], joined(Drawing(40, ("numpy",)), epochs=1, batch_size=8)[0])


class ToldEpoch(Drawing):
    """Has ``set_epoch`` and says in each sample what it was told."""

    told = -1

    def set_epoch(self, epoch):
        self.told = epoch

    def __getitem__(self, index):
        return torch.tensor([self.told])


@pytest.mark.parametrize("workers", [0, 1])
def test_datasets_are_told_the_epoch(workers):
    """In each process that loads, before it does, without any call of the program's."""
    first, second = joined(ToldEpoch(4), batch_size=4, num_workers=workers)
    assert first.tolist() == [[0]] * 4
    assert second.tolist() == [[1]] * 4


def noisy(samples):
    """A collate function that draws."""
    return torch.stack(samples) + torch.rand(()) + random.random()


@pytest.mark.parametrize("workers", [1, 3])
def test_draws_of_the_collate_function_follow_from_the_batch(workers):
    """They are the same with any number of workers, and differ from batch to batch."""
    options = {"batch_size": 4, "collate_fn": noisy, "epochs": 1}
    expected = joined(Drawing(24, ()), **options)
    found = joined(Drawing(24, ()), num_workers=workers, **options)
    assert torch.equal(found[0], expected[0])
    added = (found[0][:, 0] - torch.arange(24)).reshape(6, 4)
    assert len(added.round(decimals=9).unique()) == 6


@pytest.mark.parametrize("kinds", [(), ("numpy",), EVERYTHING], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_the_programs_generators_are_untouched(kinds, workers):
    """Iterating draws nothing from them, and leaves cached normal variates where they are."""
    random.gauss(0, 1)
    np.random.normal()
    dataset = Drawing(12, kinds)
    before, owned = states_of_the_program(), dataset.generator.bit_generator.state
    with fastload.DataLoader(
        dataset, batch_size=4, shuffle=True, seed=1, num_workers=workers
    ) as loader:
        for _ in loader:
            assert states_of_the_program() == before
    assert states_of_the_program() == before
    assert dataset.generator.bit_generator.state == owned


def test_draws_between_batches_change_nothing():
    """A training loop may draw as it likes."""
    dataset = Drawing(12, ("python", "numpy", "torch"))
    (expected,) = joined(dataset, epochs=1, batch_size=4)
    found = []
    for batch in fastload.DataLoader(dataset, batch_size=4, seed=7):
        found.append(batch)
        random.gauss(0, 1)
        np.random.normal()
        torch.rand(3)
    assert torch.equal(torch.cat(found), expected)


def test_two_passes_at_once_do_not_influence_each_other():
    """Two iterators of one loader are two epochs, each as if alone."""
    dataset = Drawing(24)
    expected = joined(dataset, batch_size=4, shuffle=True)
    loader = fastload.DataLoader(dataset, batch_size=4, shuffle=True, seed=7)
    first = iter(loader)
    got = [next(first)]
    second = iter(loader)
    assert loader.epoch == 1
    others = []
    for batch in first:
        others.append(next(second))
        got.append(batch)
    others += list(second)
    assert torch.equal(torch.cat(got), expected[0])
    assert torch.equal(torch.cat(others), expected[1])


class Killing(Drawing):
    """Kills the worker that loads one index, the first time."""

    def __init__(self, length, file):
        super().__init__(length)
        self.file = file

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if index == 17 and not self.file.exists():
            self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return sample


def test_a_killed_worker_that_is_started_again_changes_nothing(tmp_path):
    """Its batches are loaded again with the same draws."""
    expected = joined(Drawing(40), epochs=1, batch_size=4)
    with pytest.warns(RuntimeWarning, match="started again"):
        found = joined(
            Killing(40, tmp_path / "killed"),
            epochs=1,
            batch_size=4,
            num_workers=2,
            max_worker_restarts=1,
        )
    assert torch.equal(found[0], expected[0])


class Failing(Drawing):
    """Can't load every fifth index, and draws before it says so."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if index % 5 == 0:
            raise ValueError(f"no sample {index}")
        return sample


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_skipped_sample_keeps_its_position(workers):
    """The others are as if it were there, and it is counted once."""
    expected = torch.cat(joined(Drawing(40), epochs=1, batch_size=4))
    kept = expected[expected[:, 0] % 5 != 0]
    with fastload.DataLoader(
        Failing(40), batch_size=4, seed=7, on_error="skip", num_workers=workers
    ) as loader:
        assert torch.equal(torch.cat(list(loader)), kept)
        assert loader.stats().errors == 8


def test_an_error_is_raised_in_its_place_and_once():
    """A batch that is loaded again because it drew raises what the second load raises."""
    loader = fastload.DataLoader(Failing(10), batch_size=1, seed=7)
    iterator = iter(loader)
    with pytest.raises(ValueError, match="no sample 0"):
        next(iterator)
    assert next(iterator)[0, 0] == 1


class BeginsAnew:
    """A batch sampler whose iterator is itself, and begins anew whenever it is asked for one."""

    def __len__(self):
        return 10

    def __iter__(self):
        self.rest = iter([[4 * batch + at for at in range(4)] for batch in range(10)])
        return self

    def __next__(self):
        return next(self.rest)


def test_a_samplers_iterator_is_asked_for_once():
    """Each batch comes once, also where they are walked to."""
    loader = fastload.DataLoader(Drawing(40, ()), batch_sampler=BeginsAnew(), seed=1)
    assert torch.cat(list(loader))[:, 0].tolist() == list(range(40))


SAMPLERS = {
    "torch's random sampler": lambda dataset: {"sampler": RandomSampler(dataset)},
    "one with a generator": lambda dataset: {
        "sampler": RandomSampler(dataset, generator=torch.Generator())
    },
    "ours": lambda dataset: {"sampler": fastload.ShuffleSampler(dataset, seed=3)},
    "a list": lambda _dataset: {"sampler": list(range(40, 0, -3))},
    "a batch sampler": lambda dataset: {
        "batch_sampler": BatchSampler(RandomSampler(dataset), 4, drop_last=False)
    },
}


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_given_samplers_follow_from_the_seed(make):
    """They are asked while the generators hold states of seed and epoch."""
    dataset = Drawing(41, ("torch",))

    def epochs(workers):
        with fastload.DataLoader(
            dataset,
            seed=7,
            num_workers=workers,
            **{"batch_size": 4, **make(dataset)}
            if "batch_sampler" not in make(dataset)
            else make(dataset),
        ) as loader:
            return [torch.cat(list(loader)) for _ in range(2)]

    expected = epochs(0)
    torch.rand(5)
    found = epochs(2)
    assert all(map(torch.equal, found, expected))


def test_single_samples_are_loaded_alike():
    """With ``batch_size=None`` each sample is at its own position."""
    expected = joined(Drawing(12), epochs=1, batch_size=3)
    with fastload.DataLoader(Drawing(12), batch_size=None, seed=7, num_workers=2) as loader:
        assert torch.equal(torch.stack(list(loader)), expected[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_data_in_memory_is_gathered(workers):
    """A TensorDataset gives the same batches with any number of workers."""
    dataset = TensorDataset(torch.arange(50))
    first = fastload.DataLoader(dataset, batch_size=8, shuffle=True, seed=7)
    other = fastload.DataLoader(
        dataset, batch_size=4, shuffle=True, seed=7, num_workers=workers, num_replicas=2, rank=0
    )
    whole = torch.cat([batch for (batch,) in first])
    part = torch.cat([batch for (batch,) in other])
    assert part.tolist() == [
        *whole.reshape(-1)[:48].reshape(6, 8)[:, :4].flatten(),
        *whole[48:],
        *whole[:2],
    ]


@pytest.mark.parametrize("even", ["pad", "mask"])
def test_mask_says_which_samples_are_fillers(even):
    """Without the fillers, every sample was there once."""
    seen, lengths = [], []
    for rank in range(3):
        loader = fastload.DataLoader(
            Drawing(10), batch_size=2, seed=7, num_replicas=3, rank=rank, even=even
        )
        lengths.append(len(loader))
        for batch in loader:
            seen += batch[loader.mask()][:, 0].tolist()
    assert sorted(seen) == list(range(10))
    assert lengths == [2, 2, 2]


REFUSED = {
    "a generator": ({"generator": torch.Generator()}, "generator= exclude each other"),
    "no order": ({"in_order": False}, "in_order=False exclude each other"),
    "automatic workers": ({"num_workers": "auto"}, "do not go together yet"),
    "a negative seed": ({"seed": -1}, "at least 0, but got -1"),
    "a rank alone": ({"rank": 1}, "rank=1 needs num_replicas="),
    "ranks without a rank": ({"num_replicas": 2}, "num_replicas=2 needs rank="),
    "a rank too many": ({"num_replicas": 2, "rank": 2}, r"below num_replicas \(2\), but got 2"),
    "an unknown rule": ({"even": "odd"}, "even is one of pad, mask, drop, none, but got 'odd'"),
    "a distributed sampler": (
        {"sampler": DistributedSampler(range(8), num_replicas=2, rank=1)},
        "DistributedSampler for rank 1 of 2; give shuffle=True",
    ),
    "a shard": (
        {"sampler": fastload.shard(fastload.ShuffleSampler(8), 0, 2)},
        r"Shard for rank 0 of 2; give the sampler inside it instead: sampler=ShuffleSampler",
    ),
    "ranks without a seed": (
        {"seed": None, "num_replicas": 2, "rank": 0},
        "num_replicas=2 needs seed=",
    ),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_together_is_refused(options, message):
    """The error names both values and what to do."""
    with pytest.raises(ValueError, match=message):
        fastload.DataLoader(Drawing(8), **{"seed": 1, **options})


def draws_what_is_left(samples):
    """A collate function that draws one normal variate, of two that are made."""
    return torch.stack(samples) + np.random.normal() + random.gauss(0, 1)


@pytest.mark.parametrize("kinds", [(), ("numpy",), ("python", "torch")], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_cached_normal_variate_hides_no_draw(kinds, workers):
    """Samples and collate may each draw what the other has left; both follow from positions."""
    options = {"batch_size": 3, "collate_fn": draws_what_is_left, "epochs": 1}
    expected = joined(Drawing(12, kinds), redo=False, **options)
    found = joined(Drawing(12, kinds), num_workers=workers, **options)
    assert torch.equal(found[0], expected[0])


class WithAttributes(fastload.DataLoader):
    """A class of a user's whose attributes have names that fastload uses for the stream."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seed, self.rank, self.epoch, self.even = 3, 1, 5, "odd"


@pytest.mark.parametrize("workers", [0, 1])
def test_attributes_of_a_users_class_switch_nothing_on(workers):
    """Only the argument does."""
    with WithAttributes(range(6), batch_size=4, num_workers=workers) as loader:
        assert [batch.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5]]
        assert len(loader) == 2
        assert (loader.seed, loader.epoch) == (3, 5)
        assert "mode" not in loader.state_dict() or loader.state_dict()["mode"] != "seed"


class TooLong:
    """Says that it has more elements than it gives."""

    def __len__(self):
        return 12

    def __iter__(self):
        return iter(range(6))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sampler_that_ends_before_its_length_is_an_error(workers):
    """Positions are counted by its length: fewer elements must not pass for a whole epoch."""
    loader = fastload.DataLoader(
        Many(12), batch_size=4, sampler=TooLong(), seed=1, num_workers=workers
    )
    with pytest.raises(RuntimeError, match=r"ended behind 6 elements.*at least 8"):
        list(loader)
