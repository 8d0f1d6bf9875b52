"""torchdata's StatefulDataLoader: the same constructor, keys and places in an epoch."""

from __future__ import annotations

import inspect
import pickle

import pytest
import torch
import torch.utils.data

import fastload
from fastload import DataLoader

from .data import BATCH, LENGTH, Numbers, Stream, rows

stateful = pytest.importorskip("torchdata.stateful_dataloader")

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:Neither dataset nor iter:UserWarning"),
]
TORCHDATA = stateful.StatefulDataLoader
ORDER = [(7 * k) % LENGTH for k in range(LENGTH)]
PERSISTENT = {"num_workers": 2, "persistent_workers": True}
WAYS = [{}, {"num_workers": 2}, PERSISTENT]


def test_constructor_takes_torchdatas_arguments() -> None:
    """All of them, in its order, with its defaults; ours come after."""
    theirs = list(inspect.signature(TORCHDATA.__init__).parameters.values())
    ours = list(inspect.signature(DataLoader.__init__).parameters.values())
    shown = [(p.name, p.kind, p.default) for p in ours]
    assert shown[: len(theirs)] == [(p.name, p.kind, p.default) for p in theirs]


@pytest.mark.parametrize("batches", [1, 3, 6])
def test_state_has_torchdatas_keys_and_values(batches) -> None:
    """Of its loader without workers, in the middle of an epoch and at its end; one key is ours."""
    states = []
    for loader_class in (TORCHDATA, DataLoader):
        loader = loader_class(Numbers(24), batch_size=BATCH, sampler=range(24))
        for _, _ in zip(range(batches), loader, strict=False):
            pass
        states.append(loader.state_dict())
    assert states[1].keys() == states[0].keys() | {"fastload"}
    assert {key: states[1][key] for key in states[0]} == states[0]


def taken(loader, batches: int):
    iterator = iter(loader)
    return [next(iterator).tolist() for _ in range(batches)], loader.state_dict(), iterator


@pytest.mark.parametrize(
    ("batches", "options"),
    [
        *((batches, options) for options in WAYS[:2] for batches in (0, 1, 5, 6)),
        (1, PERSISTENT),
        *(pytest.param(b, PERSISTENT, marks=pytest.mark.exhaustive) for b in (0, 5, 6)),
    ],
    ids=str,
)
def test_rest_of_an_epoch_is_torchdatas(options, batches) -> None:
    """After any number of batches, in another loader."""
    rests = []
    for loader_class in (TORCHDATA, DataLoader):
        _, state, iterator = taken(
            loader_class(Numbers(), batch_size=BATCH, sampler=ORDER, **options), batches
        )
        loader = loader_class(Numbers(), batch_size=BATCH, sampler=ORDER, **options)
        loader.load_state_dict(state)
        rests.append([rows(iterator), rows(loader), rows(loader)])
        if loader_class is DataLoader:
            loader.close()
        elif loader._iterator is not None and options:
            loader._iterator._shutdown_workers()
        del iterator, loader
    assert rests[0] == rests[1]
    assert rests[1][0] == rests[1][1]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_state_is_loaded_by_the_loader_it_was_taken_from(options) -> None:
    """While an iterator is live: from its start, and from its middle."""
    torch.manual_seed(2)
    with DataLoader(Numbers(), batch_size=BATCH, shuffle=True, **options) as loader:
        iterator = iter(loader)
        at_start = loader.state_dict()
        seen = [next(iterator).tolist() for _ in range(3)]
        loader.load_state_dict(loader.state_dict())
        whole = seen + rows(loader)
        loader.load_state_dict(at_start)
        assert rows(loader) == whole


def test_loaded_state_is_the_state_until_it_is_used() -> None:
    """Asked before the next epoch, the loader tells what it was told."""
    _, state, _ = taken(DataLoader(Numbers(), BATCH), 3)
    loader = DataLoader(Numbers(), BATCH)
    loader.load_state_dict(state)
    assert loader.state_dict()["_num_yielded"] == 3


def test_second_interruption_counts_from_the_beginning_of_the_epoch() -> None:
    """A state of a resumed epoch resumes it again, with workers and without."""
    torch.manual_seed(4)
    loader = DataLoader(Numbers(), batch_size=BATCH, shuffle=True)
    seen, state, _ = taken(loader, 2)
    for workers in (2, 0, 1):
        loader = DataLoader(Numbers(), batch_size=BATCH, shuffle=True, num_workers=workers)
        loader.load_state_dict(state)
        more, state, iterator = taken(loader, 1)
        seen += more
    seen += rows(iterator)
    assert sorted(k for row in seen for k in row) == list(range(LENGTH))


def test_stream_without_a_state_of_its_own_is_read_again() -> None:
    """As with torchdata: what was delivered is thrown away."""
    rests = []
    for loader_class in (TORCHDATA, DataLoader):
        _, state, _ = taken(loader_class(Stream(), batch_size=BATCH), 2)
        loader = loader_class(Stream(), batch_size=BATCH)
        loader.load_state_dict(state)
        rests.append(rows(loader))
    assert rests[0] == rests[1]


class RankAware(DataLoader):
    """A loader as torchtitan derives it: one pickled state for each rank."""

    def __init__(self, dataset, rank: int, **options) -> None:
        self.rank = rank
        super().__init__(dataset, **options)

    def state_dict(self):
        return {f"rank_{self.rank}": pickle.dumps(super().state_dict())}

    def load_state_dict(self, state) -> None:
        super().load_state_dict(pickle.loads(state[f"rank_{self.rank}"]))


def test_subclass_may_wrap_the_state() -> None:
    """With a loader for each rank."""
    seen, state, _ = taken(RankAware(Numbers(), 3, batch_size=BATCH), 2)
    loader = RankAware(Numbers(), 3, batch_size=BATCH)
    loader.load_state_dict(state)
    assert seen + rows(loader) == rows(DataLoader(Numbers(), BATCH))


def test_torchdatas_loader_is_left_alone_by_patch() -> None:
    """It is derived from torch's and stays what it is."""
    with fastload.patched():
        loader = TORCHDATA(Numbers(), batch_size=BATCH)
        assert type(loader) is TORCHDATA
        assert rows(loader) == rows(DataLoader(Numbers(), BATCH))
