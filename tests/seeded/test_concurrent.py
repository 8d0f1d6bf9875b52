"""With ``seed=`` and ``concurrent_samples`` the stream is that of one sample at a time."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import fastload
from tests.seeded.datasets import EVERYTHING, Drawing, joined, states_of_the_program

LENGTH = 41


class Plain(Dataset):
    """Samples that follow from their index alone."""

    def __init__(self, bad=()):
        self.bad = bad

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        if index in self.bad:
            raise ValueError(f"broken file {index}")
        return torch.tensor([index, index / 7], dtype=torch.float64)


class Awaited(Plain):
    """The same, asynchronously; odd ones take longer."""

    async def __getitem__(self, index):
        await asyncio.sleep(0.001 * (index % 2))
        return Plain.__getitem__(self, index)


def noisy(samples):
    """A collate function that draws from all global generators."""
    noise = random.gauss(0, 1) + np.random.normal() + torch.randn((), dtype=torch.float64)
    return torch.stack(samples) + noise


class Noisy:
    """A collate function that draws from a generator of its own."""

    def __init__(self):
        self.rng = np.random.default_rng(5)

    def __call__(self, samples):
        return torch.stack(samples) + self.rng.random()


SETTINGS = {
    "no worker": {},
    "one worker": {"num_workers": 1},
    "two workers": {"num_workers": 2},
    "kept workers": {"num_workers": 2, "persistent_workers": True},
    "all generators set": {"num_workers": 1, "redo": False},
    "two ranks": {"ranks": 2, "num_workers": 1},
}


@pytest.mark.parametrize("collate_fn", [None, noisy, Noisy()], ids=["default", "draws", "owns"])
@pytest.mark.parametrize("kind", [Plain, Awaited])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_stream_is_the_same_bytes(setting, kind, collate_fn):
    """For any number of workers and ranks; collate has its generators set as ever."""
    usual = {"batch_size": 4, "shuffle": True, "collate_fn": collate_fn, "epochs": 2}
    ranks = {"ranks": setting["ranks"]} if "ranks" in setting else {}
    expected = joined(Plain(), **usual, **ranks)
    for at_a_time in (1, 5):
        found = joined(kind(), **usual, **setting, concurrent_samples=at_a_time)
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other)


GLOBAL_NAMES = {
    "python": "Python's random",
    "numpy": "numpy.random",
    "torch": "torch's default generator",
}


class GlobalDrawing(Dataset):
    """Draws from one of the program's generators."""

    def __init__(self, name):
        self.name = name

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return {"python": random.random, "numpy": np.random.random, "torch": torch.rand}[self.name](
            *((1,) if self.name == "torch" else ())
        )


class GlobalDrawingAwaited(GlobalDrawing):
    """The same, asynchronously."""

    async def __getitem__(self, index):
        return GlobalDrawing.__getitem__(self, index)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", GLOBAL_NAMES)
@pytest.mark.parametrize("at_a_time", [1, 4])
def test_draws_from_global_generators_are_refused(at_a_time, name, workers):
    """They can't be set for a sample while others load, nor in the midst of a coroutine."""
    kind = GlobalDrawing if at_a_time > 1 else GlobalDrawingAwaited
    loader = fastload.DataLoader(
        kind(name), batch_size=4, num_workers=workers, seed=7, concurrent_samples=at_a_time
    )
    words = rf"drew from {GLOBAL_NAMES[name]} .*seed= can't set.*concurrent_samples=1"
    with loader, pytest.raises(ValueError, match=words):
        next(iter(loader))


@pytest.mark.parametrize("workers", [0, 2])
def test_generators_that_the_dataset_owns_are_refused(workers):
    """Whether the first sample draws from them or not; the error says where they are."""
    loader = fastload.DataLoader(
        Drawing(LENGTH, ()), batch_size=4, num_workers=workers, seed=7, concurrent_samples=4
    )
    with loader, pytest.raises(ValueError, match=r"Drawing owns .*dataset\.generator.*seed="):
        next(iter(loader))


def test_one_sample_at_a_time_may_draw_from_everything():
    """Without the option nothing is refused."""
    (found,) = joined(Drawing(LENGTH, EVERYTHING), batch_size=4, epochs=1, concurrent_samples=1)
    assert len(found) == LENGTH


@pytest.mark.parametrize("kind", [Plain, Awaited])
def test_the_programs_generators_stay_as_they_are(kind):
    """Also where collate draws."""
    before = states_of_the_program()
    joined(kind(), batch_size=4, collate_fn=noisy, concurrent_samples=4)
    after = states_of_the_program()
    assert before[0] == after[0]
    assert before[1:] == after[1:]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [Plain, Awaited])
def test_a_pass_goes_on_where_a_state_was_taken(kind, workers):
    """With another number of samples at a time."""
    loader = fastload.DataLoader(
        kind(), batch_size=4, shuffle=True, seed=7, num_workers=workers, concurrent_samples=3
    )
    with loader:
        batches = iter(loader)
        first = [next(batches) for _ in range(3)]
        state = loader.state_dict()
    with loader.replace(concurrent_samples=8, num_workers=1) as other:
        other.load_state_dict(state)
        rest = list(other)
    (expected,) = joined(Plain(), batch_size=4, shuffle=True, epochs=1)
    assert torch.equal(torch.cat([*first, *rest]), expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [Plain, Awaited])
def test_samples_that_fail_are_left_out(kind, workers):
    """The same ones as one at a time, also where collate makes the first batch load twice."""
    found = []
    for dataset, at_a_time in ((Plain((2, 30)), 1), (kind((2, 30)), 4)):
        loader = fastload.DataLoader(
            dataset,
            batch_size=4,
            num_workers=workers,
            seed=7,
            on_error="skip",
            collate_fn=noisy,
            concurrent_samples=at_a_time,
        )
        with loader:
            batches = torch.cat(list(loader))
            found.append((batches, [each.index for each in loader.stats().skipped]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] == [2, 30]


class Items(IterableDataset):
    """Yields keys, in an order that it draws; they are loaded by whoever is told to."""

    def __iter__(self):
        left = list(range(LENGTH))
        while left:
            yield left.pop(random.randrange(len(left)))

    def load(self, item):
        return torch.tensor([item, item / 7])


class ItemsAwaited(Items):
    """The same, asynchronously."""

    async def load(self, item):
        await asyncio.sleep(0.001 * (item % 2))
        return Items.load(self, item)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("kind", [Items, ItemsAwaited])
def test_items_of_an_iterable_dataset_load_at_a_time(kind, workers):
    """The keys are read one after another; what is loaded comes in their order."""
    (expected,) = joined(Items(), batch_size=4, epochs=1)
    for at_a_time in (1, 5):
        (found,) = joined(
            kind(), batch_size=4, num_workers=workers, epochs=1, concurrent_samples=at_a_time
        )
        assert torch.equal(found, expected)


class Numbers(IterableDataset):
    """A stream without ``load``."""

    def __iter__(self):
        return iter(range(LENGTH))


def test_other_iterable_datasets_are_refused():
    """Their samples come one after another."""
    with pytest.raises(ValueError, match=r"needs a map-style dataset.*load\(item\)"):
        fastload.DataLoader(Numbers(), seed=7, concurrent_samples=2)


def test_data_in_memory_is_gathered_as_ever():
    """The option changes nothing there."""
    dataset = TensorDataset(torch.arange(LENGTH))
    streams = []
    for at_a_time in (1, 4):
        loader = fastload.DataLoader(
            dataset, batch_size=4, shuffle=True, seed=7, concurrent_samples=at_a_time
        )
        streams.append(torch.cat([batch[0] for batch in loader]))
    assert torch.equal(*streams)
