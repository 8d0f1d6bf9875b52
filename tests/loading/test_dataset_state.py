"""States that datasets have of their own: when they are asked for, and when they are loaded."""

from __future__ import annotations

import copy
import os
import pickle
import signal

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from fastload import DataLoader

LENGTH = 10


class Mortal(IterableDataset):
    """Kills its process at a position, once."""

    def __init__(self, deadly: int | None = None) -> None:
        self.deadly = deadly
        self.deaths = torch.tensor([deadly is not None]).share_memory_()

    def live(self, position: int) -> int:
        if position == self.deadly and self.deaths[0]:
            self.deaths[0] = False
            os.kill(os.getpid(), signal.SIGKILL)
        return position


class Counting(Mortal):
    """A generator; the dataset has the state."""

    at = 0

    def __iter__(self):
        while self.at < LENGTH:
            self.at += 1
            yield self.live(self.at - 1)
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state) -> None:
        self.at = state["at"]


class OwnIterator(Mortal):
    """It is its own iterator, and has a state once it has begun."""

    def __iter__(self):
        self.at = 0
        return self

    def __next__(self) -> int:
        if self.at >= LENGTH:
            raise StopIteration
        self.at += 1
        return self.live(self.at - 1)

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state) -> None:
        assert hasattr(self, "at"), "loaded before it has begun"
        self.at = state["at"]


class Walk:
    """An iterator with a state."""

    def __init__(self, live) -> None:
        self.at, self.live = 0, live

    def __iter__(self):
        return self

    __next__ = OwnIterator.__next__
    state_dict = Counting.state_dict
    load_state_dict = Counting.load_state_dict


class OfIterators(Mortal):
    """Its iterators have the state."""

    def __iter__(self):
        return Walk(self.live)


class Epochs(IterableDataset):
    """Counts its epochs."""

    epoch = 0

    def __iter__(self):
        self.epoch += 1
        return iter(range(100 * self.epoch, 100 * self.epoch + 4))

    def state_dict(self):
        return {"epoch": self.epoch}

    def load_state_dict(self, state) -> None:
        self.epoch = state["epoch"]


class OwnEpochs(OwnIterator):
    """Counts its epochs, and is its own iterator."""

    epoch = 0

    def __iter__(self):
        self.epoch += 1
        return super().__iter__()

    def __next__(self) -> int:
        return 100 * self.epoch + super().__next__()

    def state_dict(self):
        return {"at": self.at, "epoch": self.epoch}

    def load_state_dict(self, state) -> None:
        self.at, self.epoch = state["at"], state["epoch"]


class Counted(Dataset):
    """A map-style dataset that counts what it has loaded."""

    loaded = 0

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        self.loaded += 1
        return 100 * index + self.loaded

    def state_dict(self):
        return {"loaded": self.loaded}

    def load_state_dict(self, state) -> None:
        self.loaded = state["loaded"]


STREAMS = [Counting, OwnIterator, OfIterators]
FORK, FORKSERVER, SPAWN = (
    {"num_workers": 1, "multiprocessing_context": method}
    for method in ("fork", "forkserver", "spawn")
)
WAYS = [
    *({}, FORK, FORKSERVER, {**FORK, "persistent_workers": True}),
    pytest.param(SPAWN, marks=pytest.mark.exhaustive),
]


def rows(batches) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


WHOLE = rows(torch.arange(LENGTH).split(4))


def taken(dataset, batches: int):
    loader = DataLoader(dataset, batch_size=4)
    iterator = iter(loader)
    for _ in range(batches):
        next(iterator)
    return copy.deepcopy(loader.state_dict()), rows(iterator)


@pytest.mark.parametrize("make", STREAMS)
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_stream_goes_on_for_one_epoch(make, options) -> None:
    """Behind any batch, the last and short one too; the epochs after it are whole."""
    for batches in (0, 1, 3) if not options else (1,):
        state, rest = taken(make(), batches)
        with DataLoader(make(), batch_size=4, **options) as loader:
            loader.load_state_dict(state)
            assert [rows(loader) for _ in range(3)] == [rest, WHOLE, WHOLE]


@pytest.mark.parametrize("make", STREAMS)
def test_stream_goes_on_in_the_loader_it_was_taken_from(make) -> None:
    """Also twice, from one state, which is not changed."""
    loader = DataLoader(make(), batch_size=4)
    next(iter(loader))
    state = loader.state_dict()
    for _ in range(2):
        loader.load_state_dict(state)
        assert rows(loader) == WHOLE[1:]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("make", STREAMS)
@pytest.mark.filterwarnings("ignore:DataLoader worker .* was started again")
def test_loaded_state_outlives_no_epoch_when_its_worker_dies(make, persistent: bool) -> None:
    """Whether it dies before its first report or after it."""
    for deadly in (5, 9):
        state, rest = taken(make(), 1)
        options = {"max_worker_restarts": 1, "persistent_workers": persistent}
        with DataLoader(make(deadly), batch_size=4, num_workers=1, **options) as loader:
            loader.load_state_dict(state)
            assert [rows(loader) for _ in range(3)] == [rest, WHOLE, WHOLE]
            assert loader.dataset.deaths[0] == 0


@pytest.mark.filterwarnings("ignore:DataLoader worker .* was started again")
@pytest.mark.parametrize("make", STREAMS)
def test_stream_whose_worker_dies_goes_on_by_any_state(make) -> None:
    """The state may be the iterator's."""
    loader = DataLoader(make(9), batch_size=4, num_workers=1, max_worker_restarts=1)
    assert rows(loader) == WHOLE
    assert loader.dataset.deaths[0] == 0


@pytest.mark.parametrize("make", [Epochs, OwnEpochs])
def test_state_at_the_end_of_an_epoch_is_kept(make) -> None:
    """A dataset that counts its epochs goes on with the next."""
    loader = DataLoader(make(), batch_size=4)
    rows(loader)
    for options in ({}, {"num_workers": 1}):
        again = DataLoader(make(), batch_size=4, **options)
        again.load_state_dict(loader.state_dict())
        assert rows(again)[0][0] == 200
    assert rows(loader)[0][0] == 200


@pytest.mark.parametrize("workers", [0, 1])
def test_map_style_dataset_goes_on_too(workers: int) -> None:
    """Its state is loaded where it is read."""
    state, rest = taken(Counted(), 1)
    loader = DataLoader(Counted(), batch_size=4, num_workers=workers)
    loader.load_state_dict(state)
    assert rows(loader) == rest == [[405, 506]]


@pytest.mark.parametrize("workers", [1, 2])
def test_stream_that_is_read_again_is_read_from_its_beginning(workers: int) -> None:
    """Although kept workers stand in its middle."""
    with DataLoader(Counting(), 2, num_workers=workers, persistent_workers=True) as loader:
        iterator = iter(loader)
        next(iterator)
        state, rest = loader.state_dict(), rows(iterator)
    with DataLoader(Counting(), 2, num_workers=workers, persistent_workers=True) as loader:
        next(iter(loader))
        loader.load_state_dict(state)
        assert rows(loader) == rest


class Broken(OwnIterator):
    """Some of its samples can't be read."""

    def __next__(self) -> int:
        position = super().__next__()
        if position in (1, 4, 5):
            raise OSError(position)
        return position

    state_dict = None  # type: ignore[assignment]  # it is read again

    def __getattribute__(self, name: str):
        if name in ("state_dict", "load_state_dict"):
            raise AttributeError(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_what_is_read_again_are_not_raised_again(on_error: str, workers: int) -> None:
    """A batch that raised, or was left out, counts as one."""

    def rest_of(iterator, count: int = LENGTH) -> list[list[int]]:
        found: list[list[int]] = []
        while len(found) < count:
            try:
                found.append(next(iterator).tolist())
            except OSError:
                continue
            except StopIteration:
                break
        return found

    options = {"batch_size": 2, "num_workers": workers, "on_error": on_error}
    loader = DataLoader(Broken(), **options)
    iterator = iter(loader)
    rest_of(iterator, 2)
    again = DataLoader(Broken(), **options)
    again.load_state_dict(loader.state_dict())
    assert rest_of(iter(again)) == rest_of(iterator)


def test_state_before_the_first_epoch_asks_nobody() -> None:
    """There may be none yet; or a class in the dataset's place, as in trainers' pickles."""
    loader = DataLoader(OwnIterator(), batch_size=2)
    assert loader.state_dict()["dataset_state"] is None
    object.__setattr__(loader, "dataset", OwnIterator)
    loader.state_dict()


def test_idle_loader_is_pickled_and_copied_after_it_was_asked() -> None:
    """The state is no part of it."""
    loader = DataLoader(TensorDataset(torch.arange(8)), batch_size=2)
    loader.state_dict()
    for copied in (pickle.loads(pickle.dumps(loader)), copy.deepcopy(loader)):
        assert len(list(copied)) == 4


def test_state_does_not_change_with_the_dataset() -> None:
    """A dataset may return the dictionary that it goes on to change."""

    class Living(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.state = {"at": 0}

        def __iter__(self):
            for self.state["at"] in range(LENGTH):
                yield self.state["at"]

        def state_dict(self):
            return self.state

        def load_state_dict(self, state) -> None:
            self.state = state

    loader = DataLoader(Living(), batch_size=2)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    next(iterator)
    assert state["dataset_state"] == {"at": 1}
    loader.load_state_dict(state)
    next(iter(loader))
    assert state["dataset_state"] == {"at": 1}


class Stateless(IterableDataset):
    """Has no state."""

    def __iter__(self):
        yield from range(LENGTH)


def test_dataset_that_has_no_state_refuses_one() -> None:
    """With the cure."""
    state, _ = taken(Counting(), 1)
    loader = DataLoader(Stateless(), batch_size=4)
    loader.load_state_dict(state)
    with pytest.raises(ValueError, match="Stateless has no load_state_dict; use the dataset"):
        iter(loader)
