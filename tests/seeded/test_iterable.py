"""Iterable datasets of users in a seeded stream."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time

import pytest
import torch
from torch.utils.data import IterableDataset, get_worker_info

import fastload

from .datasets import EVERYTHING, Drawing, states_of_the_program


class Stream(IterableDataset):
    """Yields numbers with draws; takes a part of them if it is told of workers."""

    def __init__(self, length, kinds=EVERYTHING, *, has_length=False):
        self.source = Drawing(length, kinds)
        self.has_length = has_length

    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, self.source.length, step):
            yield self.source[index]

    def __len__(self):
        if not self.has_length:
            raise TypeError("no length")
        return self.source.length


class Items(Stream):
    """Yields indices in an order that it draws; ``load`` makes samples of them."""

    def __iter__(self):
        left = list(range(self.source.length))
        while left:
            yield left.pop(random.randrange(len(left)))

    def load(self, item):
        return self.source[item]


def joined(dataset, *, ranks=1, epochs=2, even="none", **options):
    """The batches of each epoch, of all ranks in order."""
    parts = []
    for rank in range(ranks):
        with fastload.DataLoader(
            dataset, seed=7, num_replicas=ranks, rank=rank, even=even, **options
        ) as loader:
            parts.append([list(loader) for _ in range(epochs)])
    return [
        [batch for step in itertools.zip_longest(*epoch) for batch in step if batch is not None]
        for epoch in zip(*parts, strict=True)
    ]


SETTINGS = {
    "one worker": {"num_workers": 1},
    "three workers": {"num_workers": 3},
    "another batch size": {"batch_size": 7},
    "two ranks": {"ranks": 2, "num_workers": 1},
    "three ranks": {"ranks": 3, "batch_size": 2},
    "kept workers": {"num_workers": 2, "persistent_workers": True},
    "forkserver": {"num_workers": 1, "multiprocessing_context": "forkserver"},
}


@pytest.mark.filterwarnings("ignore:num_workers=.*one worker reads:UserWarning")
@pytest.mark.parametrize("kind", [Stream, Items])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_stream_is_the_same_bytes_in_every_setting(setting, kind):
    """It is what the dataset yields without workers, in that order, random numbers included."""
    expected = joined(kind(41), batch_size=4)
    found = joined(kind(41), **{"batch_size": 4, **setting})
    for some, others in zip(found, expected, strict=True):
        assert torch.equal(torch.cat(some), torch.cat(others))
    assert sorted(torch.cat(expected[0])[:, 0].tolist()) == list(range(41))
    assert not torch.equal(torch.cat(expected[0]), torch.cat(expected[1]))


@pytest.mark.filterwarnings("ignore:num_workers=.*one worker reads:UserWarning")
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_and_drop_last_are_as_without_workers(workers):
    """Two workers do not end with a short batch each."""
    found = joined(Stream(100, ()), batch_size=64, num_workers=workers, epochs=1)
    assert [len(batch) for batch in found[0]] == [64, 36]
    found = joined(Stream(100, ()), batch_size=64, num_workers=workers, epochs=1, drop_last=True)
    assert [len(batch) for batch in found[0]] == [64]


def test_idle_workers_are_told_of(monkeypatch):
    """Once, with what would make them take part."""
    monkeypatch.setattr("fastload._epoch.seeded._has_warned", [])
    with pytest.warns(UserWarning, match=r"one worker reads.*load\(item\) makes the others"):
        joined(Stream(8, ()), batch_size=4, num_workers=2, epochs=2)


def in_worker(item):
    """The number of the worker that loads; -1 in the training process."""
    info = get_worker_info()
    return -1 if info is None else info.id


class WhoLoads(Items):
    """A sample is the number of the worker that loaded it."""

    def load(self, item):
        time.sleep(0.02)  # or one worker may load all before the other has started
        return torch.tensor([in_worker(item)])


def test_items_are_loaded_by_all_workers():
    """Each gets its batches."""
    (found,) = joined(WhoLoads(64, ()), batch_size=2, num_workers=2, epochs=1)
    assert {batch[0].item() for batch in found} == {0, 1}


@pytest.mark.parametrize(
    ("even", "sizes"),
    [
        ("pad", [[3, 3], [3, 3]]),
        ("mask", [[3, 3], [3, 3]]),
        ("drop", [[3], [3]]),
        ("none", [[3, 2], [3]]),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_ranks_end_together_as_even_says(even, sizes, workers):
    """Fillers are the first samples of the last whole step."""
    found = []
    for rank in range(2):
        with fastload.DataLoader(
            Stream(8, ()), 3, seed=1, num_replicas=2, rank=rank, even=even, num_workers=workers
        ) as loader:
            found.append([batch[:, 0].tolist() for batch in loader])
    assert [[len(batch) for batch in rank] for rank in found] == sizes
    assert found[0][0] + found[1][0] == [0, 1, 2, 3, 4, 5]
    if even in ("pad", "mask"):
        assert found[0][1] + found[1][1] == [6, 7, 0, 1, 2, 3]


@pytest.mark.parametrize("workers", [0, 1])
def test_mask_says_which_samples_of_a_stream_are_fillers(workers):
    """Without the fillers, every sample was there once."""
    seen = []
    for rank in range(3):
        with fastload.DataLoader(
            Stream(10, ()), 2, seed=1, num_replicas=3, rank=rank, num_workers=workers
        ) as loader:
            for batch in loader:
                seen += batch[loader.mask()][:, 0].tolist()
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize("has_length", [False, True])
@pytest.mark.parametrize("kind", [Stream, Items])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_goes_on_with_another_batch_size(kind, workers, has_length):
    """The part that was delivered is read again and not delivered again."""
    expected = torch.cat(joined(kind(41), batch_size=4, epochs=1)[0])
    with fastload.DataLoader(kind(41, has_length=has_length), 4, seed=7) as first:
        steps = iter(first)
        found = [next(steps) for _ in range(3)]
        state = first.state_dict()
    assert (state["epoch"], state["position"]) == (0, 12)
    with fastload.DataLoader(
        kind(41, has_length=has_length), 5, seed=7, num_workers=workers
    ) as second:
        second.load_state_dict(state)
        found += list(second)
        assert (second.state_dict()["epoch"], second.state_dict()["position"]) == (1, 0)
    assert torch.equal(torch.cat(found), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_length_is_that_of_the_dataset_dealt_to_ranks(workers):
    """A dataset without a length has none."""
    one = fastload.DataLoader(
        Stream(41, has_length=True), 4, seed=7, num_replicas=2, rank=1, num_workers=workers
    )
    assert len(one) == 6
    with pytest.raises(TypeError):
        len(fastload.DataLoader(Stream(41), 4, seed=7))


@pytest.mark.parametrize("kind", [Stream, Items])
def test_the_programs_generators_are_untouched(kind):
    """Iterating draws nothing from them."""
    before = states_of_the_program()
    for _ in fastload.DataLoader(kind(9), batch_size=2, seed=1):
        assert states_of_the_program() == before
    assert states_of_the_program() == before


class Holes(IterableDataset):
    """Raises for each third number and goes on."""

    def __init__(self, length):
        self.length = length

    def __iter__(self):
        return HolesIterator(self.length)


class HolesIterator:
    def __init__(self, length):
        self.length, self.next = length, 0

    def __iter__(self):
        return self

    def __next__(self):
        number, self.next = self.next, self.next + 1
        if number >= self.length:
            raise StopIteration
        if number % 3 == 0:
            raise ValueError(f"no {number}")
        return torch.tensor([number, random.random()])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_skipped_sample_keeps_its_position(workers):
    """The batch is smaller, and all others are as they were."""
    whole = joined(Holes(20), batch_size=1, epochs=1, on_error="skip")
    found = joined(Holes(20), batch_size=4, epochs=1, on_error="skip", num_workers=workers)
    assert [len(batch) for batch in found[0]] == [2, 3, 3, 2, 3]
    assert torch.equal(torch.cat(found[0]), torch.cat(whole[0]))


class Generator(IterableDataset):
    """Ends with its error, as generators do."""

    def __iter__(self):
        yield torch.tensor(0)
        raise ValueError("broken record")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_generator_that_raises_is_an_error_whatever_on_error_says(workers):
    """It has no further samples, which must not look like the end of the epoch."""
    loader = fastload.DataLoader(
        Generator(), batch_size=1, seed=1, on_error="skip", num_workers=workers
    )
    batches = iter(loader)
    assert next(batches).tolist() == [0]
    with pytest.raises(ValueError, match="broken record"):
        next(batches)


def test_an_empty_batch_of_one_of_several_ranks_is_an_error():
    """Left out, it would hang the others."""
    loader = fastload.DataLoader(
        Holes(12), batch_size=1, seed=1, on_error="skip", num_replicas=3, rank=0
    )
    with pytest.raises(RuntimeError, match="With 3 ranks a batch can't be left out"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_single_items_are_samples(workers):
    """With ``batch_size=None`` each item has a position of its own."""
    expected = torch.cat(joined(Stream(9), batch_size=3, epochs=1)[0])
    found = joined(Stream(9), batch_size=None, epochs=1, num_workers=workers)
    assert torch.equal(torch.stack(found[0]), expected)


class KillingStream(Stream):
    """Kills the worker that reads it at one number, the first time."""

    def __init__(self, length, file):
        super().__init__(length)
        self.file = file

    def __iter__(self):
        for sample in super().__iter__():
            if sample[0] == 17 and not self.file.exists():
                self.file.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield sample


def test_a_killed_reader_is_started_again(tmp_path):
    """It reads the stream again up to where it was; nothing comes twice or never."""
    expected = joined(Stream(41), batch_size=4, epochs=1)
    with pytest.warns(RuntimeWarning, match="started again"):
        found = joined(
            KillingStream(41, tmp_path / "killed"),
            batch_size=4,
            epochs=1,
            num_workers=1,
            max_worker_restarts=1,
        )
    assert torch.equal(torch.cat(found[0]), torch.cat(expected[0]))
