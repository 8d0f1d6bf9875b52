"""An epoch goes on in another process where it was left: nothing lost, nothing repeated."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, DistributedSampler, IterableDataset, Sampler, get_worker_info

from fastload import DataLoader

LENGTH, BATCH = 22, 4


class Numbers(Dataset):
    """Counts what is loaded in this process."""

    def __init__(self) -> None:
        self.loaded = 0

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> int:
        self.loaded += 1
        return index


class Stream(IterableDataset):
    """Dealt to the workers by number."""

    def __iter__(self) -> Iterator[int]:
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from range(start, LENGTH, step)


class Rewindable(IterableDataset):
    """Knows where it is."""

    def __init__(self) -> None:
        self.at = 0
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        while self.at < LENGTH:
            self.at += 1
            self.read += 1
            yield self.at - 1
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class DrawnFromNumpy(Sampler):
    """Draws its order from NumPy's global generator when it is first asked."""

    def __len__(self) -> int:
        return LENGTH

    def __iter__(self) -> Iterator[int]:
        yield from np.random.permutation(LENGTH).tolist()


class OwnGenerator(Sampler):
    """Draws each epoch's order from a generator of its own, which nobody else knows."""

    def __init__(self, kind: str) -> None:
        self.source = {
            "torch": lambda: torch.Generator().manual_seed(3),
            "numpy": lambda: np.random.default_rng(3),
            "philox": lambda: np.random.Generator(np.random.Philox(3)),
            "legacy numpy": lambda: np.random.RandomState(3),
            "python": lambda: random.Random(3),
        }[kind]()

    def __len__(self) -> int:
        return LENGTH

    def __iter__(self) -> Iterator[int]:
        order = list(range(LENGTH))
        if isinstance(self.source, torch.Generator):
            order = torch.randperm(LENGTH, generator=self.source).tolist()
        else:
            self.source.shuffle(order)
        yield from order


def shuffled(**options) -> DataLoader:
    return DataLoader(Numbers(), batch_size=BATCH, shuffle=True, **options)


def with_generator(**options) -> DataLoader:
    generator = torch.Generator()
    generator.manual_seed(3)
    return shuffled(generator=generator, **options)


def distributed(**options) -> DataLoader:
    sampler = DistributedSampler(Numbers(), num_replicas=2, rank=1)
    sampler.set_epoch(5)
    return DataLoader(Numbers(), batch_size=BATCH, sampler=sampler, **options)


def drawn_from_numpy(**options) -> DataLoader:
    return DataLoader(Numbers(), batch_size=BATCH, sampler=DrawnFromNumpy(), **options)


def one_by_one(**options) -> DataLoader:
    return DataLoader(Numbers(), batch_size=None, shuffle=True, **options)


MAP_STYLE = [shuffled, with_generator, distributed, drawn_from_numpy, one_by_one]


def through_a_file(state):
    """As a checkpoint is saved and loaded."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def rows(loader) -> list[list[int]]:
    return [np.atleast_1d(np.asarray(batch)).tolist() for batch in loader]


def leave_after(loader, batches: int):
    """Deliver some batches; return them and the state."""
    iterator = iter(loader)
    seen = [np.atleast_1d(np.asarray(next(iterator))).tolist() for _ in range(batches)]
    return seen, through_a_file(loader.state_dict())


def scramble() -> None:
    """What another process's generators are like."""
    torch.manual_seed(999)
    np.random.seed(999)


@pytest.mark.parametrize("make", MAP_STYLE)
@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (2, 0), (0, 3), (3, 1)])
def test_resumed_epoch_is_the_rest_of_it(make, before: int, after: int) -> None:
    """After any number of batches, and with another number of workers."""
    torch.manual_seed(1)
    np.random.seed(1)
    whole = rows(make(num_workers=before))
    for batches in range(1, len(whole), 1 if before == after == 0 else 3):
        torch.manual_seed(1)
        np.random.seed(1)
        seen, state = leave_after(make(num_workers=before), batches)
        scramble()
        loader = make(num_workers=after)
        loader.load_state_dict(state)
        assert seen + rows(loader) == whole


@pytest.mark.parametrize("kind", ["torch", "numpy", "philox", "legacy numpy", "python"])
def test_a_samplers_own_generator_goes_on(kind: str) -> None:
    """In the second epoch, in a new sampler; whatever its library, and whatever its name."""

    def make() -> DataLoader:
        return DataLoader(Numbers(), batch_size=BATCH, sampler=OwnGenerator(kind))

    loader = make()
    rows(loader)
    iterator = iter(loader)
    next(iterator)
    state, rest = through_a_file(loader.state_dict()), rows(iterator)
    again = make()
    again.load_state_dict(state)
    assert rows(again) == rest
    assert rows(again) == rows(loader)


WAYS = [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}]


class Eager(Sampler):
    """Draws its order when its iterator is made, which torch does twice for new workers."""

    def __len__(self) -> int:
        return LENGTH

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(LENGTH).tolist())


def drawn_at_once(**options) -> DataLoader:
    return DataLoader(Numbers(), batch_size=BATCH, sampler=Eager(), **options)


@pytest.mark.parametrize("make", [shuffled, with_generator, drawn_at_once])
@pytest.mark.parametrize("before", WAYS, ids=str)
@pytest.mark.parametrize("batches", [0, 2])
def test_any_epoch_goes_on_in_any_loader(make, before, batches: int) -> None:
    """Also a later one, for which kept workers need no new seed, and one of no batch yet."""
    torch.manual_seed(1)
    with make(**before) as loader:
        rows(loader)
        iterator = iter(loader)
        seen = [next(iterator).tolist() for _ in range(batches)]
        state = through_a_file(loader.state_dict())
        whole = seen + rows(iterator)
    scramble()
    for after in WAYS:
        with make(**after) as loader:
            rows(loader)  # so that kept workers are there already
            loader.load_state_dict(state)
            assert seen + rows(loader) == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_epoch_leaves_the_programs_generators_alone(workers: int) -> None:
    """The program has restored them itself, or will."""
    _, state = leave_after(shuffled(num_workers=workers), 2)
    loader = shuffled(num_workers=workers)
    loader.load_state_dict(state)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    rows(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_resumed_map_style_epoch_does_not_load_what_was_delivered() -> None:
    """Skipping costs nothing but the order."""
    _, state = leave_after(shuffled(), 3)
    loader = shuffled()
    loader.load_state_dict(state)
    assert len(rows(loader)) == 3
    assert loader.dataset.loaded == LENGTH - 3 * BATCH


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batches", [1, 2, 5])
def test_resumed_stream_gives_the_rest(workers: int, batches: int) -> None:
    """It is read again, and what was delivered is thrown away."""
    loader = DataLoader(Stream(), batch_size=BATCH, num_workers=workers)
    whole = rows(loader)
    seen, state = leave_after(DataLoader(Stream(), batch_size=BATCH, num_workers=workers), batches)
    loader.load_state_dict(state)
    assert seen + rows(loader) == whole


def test_stream_with_a_state_goes_on_by_itself() -> None:
    """Nothing is read twice."""
    seen, state = leave_after(DataLoader(Rewindable(), batch_size=BATCH), 2)
    dataset = Rewindable()
    loader = DataLoader(dataset, batch_size=BATCH)
    loader.load_state_dict(state)
    assert list(chain.from_iterable(seen + rows(loader))) == list(range(LENGTH))
    assert dataset.read == LENGTH - 2 * BATCH


def test_state_counts_delivered_not_prefetched_batches() -> None:
    """What workers have loaded ahead is loaded again."""
    loader = shuffled(num_workers=2, prefetch_factor=3)
    next(iter(loader))
    assert loader.state_dict()["_num_yielded"] == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_state_before_the_first_epoch_and_after_the_last_means_a_whole_epoch(workers: int) -> None:
    """Both can be loaded; there is nothing to go on with."""
    for state in (shuffled(num_workers=workers).state_dict(), finished_state(workers)):
        loader = shuffled(num_workers=workers)
        loader.load_state_dict(through_a_file(state))
        assert sorted(chain.from_iterable(rows(loader))) == list(range(LENGTH))


def finished_state(workers: int):
    loader = shuffled(num_workers=workers)
    rows(loader)
    return loader.state_dict()


def test_only_the_next_epoch_is_the_resumed_one() -> None:
    """The one after it is whole."""
    _, state = leave_after(shuffled(), 4)
    loader = shuffled()
    loader.load_state_dict(state)
    assert [len(rows(loader)), len(rows(loader))] == [2, 6]


def test_state_is_new_at_each_call_and_may_be_edited() -> None:
    """Accelerate writes into it; unknown keys are ignored when it is loaded."""
    loader = shuffled()
    state = loader.state_dict()
    state["_iterator_finished"] = True
    state["of somebody else"] = 1
    assert loader.state_dict()["_iterator_finished"] is False
    loader.load_state_dict(state)


def test_state_of_another_dataset_is_refused() -> None:
    """Its order would be another one."""
    loader = DataLoader(range(7), batch_size=2)
    with pytest.raises(ValueError, match="length 22; this loader's has length 7"):
        loader.load_state_dict(shuffled().state_dict())


@pytest.mark.parametrize("state", [{}, {"fastload": {"version": 99}}, 3])
def test_what_is_no_state_is_refused(state) -> None:
    """With an error, not a wrong epoch."""
    with pytest.raises(ValueError, match="not a state"):
        shuffled().load_state_dict(state)


def test_epoch_without_order_cannot_be_resumed() -> None:
    """A number of batches says nothing about which."""
    loader = shuffled(num_workers=1, in_order=False)
    with pytest.raises(ValueError, match="in_order"):
        loader.load_state_dict(loader.state_dict())
