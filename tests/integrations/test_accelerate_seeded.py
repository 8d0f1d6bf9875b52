"""Accelerate and loaders with ``seed=``: epochs that go on by the loader's count, exact resumes."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import BatchSampler, Dataset, IterableDataset

from fastload import DataLoader, prefetch
from fastload._device import copying
from fastload.integrations import accelerate as ours
from tests.device.fake_device import FakeDevice

from .data import rows

accelerate = pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

LENGTH, BATCH, EPOCHS = 22, 4, 4
BATCHES = 6


class Noisy(Dataset):
    """Its index and a random number."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(()).item()])


class NoisyStream(IterableDataset):
    """Numbers in an order that each epoch draws anew, with a random number each."""

    def __iter__(self):
        for index in torch.randperm(LENGTH).tolist():
            yield torch.tensor([index, torch.rand(()).item()])


KINDS = {
    "shuffled": lambda **options: DataLoader(Noisy(), BATCH, shuffle=True, **options),
    "sampler": lambda **options: DataLoader(Noisy(), BATCH, sampler=range(LENGTH), **options),
    "batches": lambda **options: DataLoader(
        Noisy(), batch_sampler=BatchSampler(range(LENGTH), BATCH, drop_last=False), **options
    ),
    "stream": lambda **options: DataLoader(NoisyStream(), BATCH, **options),
}
"""A sampler that can't be told an epoch leaves the count to the loader."""


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps its state in shared dictionaries."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def make_accelerator():
    return accelerate.Accelerator(
        cpu=True,
        dataloader_config=accelerate.DataLoaderConfiguration(use_stateful_dataloader=True),
    )


def epochs(loader, number=EPOCHS):
    return [rows(loader) for _ in range(number)]


@pytest.fixture(params=KINDS)
def make(request):
    """Makes a loader of each kind."""
    return KINDS[request.param]


def test_epochs_are_those_of_the_loader_alone(make) -> None:
    """Accelerate's own counter says what the loader's does."""
    prepared = ours.prepare(make_accelerator(), make(seed=7))
    expected = epochs(make(seed=7))
    assert epochs(prepared) == expected
    assert expected[0] != expected[1]


@pytest.mark.parametrize("at", [(0, 2), (2, 3), (2, BATCHES)])
def test_epochs_after_a_resume_go_on_by_the_states_count(make, tmp_path, at) -> None:
    """The rest of the saved epoch, then the epochs after it, though Accelerate counts from 0."""
    epoch, batches = at
    expected = epochs(make(seed=7))
    accelerator = make_accelerator()
    prepared = ours.prepare(accelerator, make(seed=7))
    epochs(prepared, epoch)
    for number, _ in enumerate(prepared, 1):
        if number == batches:
            accelerator.save_state(tmp_path / "state")
            break
    accelerator.free_memory()

    fresh = make_accelerator()
    again = ours.prepare(fresh, make(seed=7))
    fresh.load_state(tmp_path / "state")
    if batches < BATCHES:
        assert rows(again) == expected[epoch][batches:]
    assert epochs(again, EPOCHS - epoch - 1) == expected[epoch + 1 :]


def test_state_loaded_before_prepare_stays_loaded(make) -> None:
    """Also in the epochs that follow."""
    loader, again = make(seed=7), make(seed=7)
    expected = epochs(make(seed=7))
    rows(loader)
    iterator = iter(loader)
    next(iterator)
    again.load_state_dict(loader.state_dict())
    prepared = ours.prepare(make_accelerator(), again)
    assert rows(prepared) == expected[1][1:]
    assert rows(prepared) == expected[2]


def test_epoch_that_a_program_sets_is_obeyed(make) -> None:
    """As Accelerate's guide and the transformers Trainer do at the beginning of each epoch."""
    prepared = ours.prepare(make_accelerator(), make(seed=7))
    expected = epochs(make(seed=7))
    for epoch in (2, 0, 3):
        prepared.set_epoch(epoch)
        assert rows(prepared) == expected[epoch]


@pytest.mark.parametrize("is_prepared", [True, False])
def test_skipped_batches_are_those_of_the_epoch(make, is_prepared) -> None:
    """With the draws of their place; the loader itself begins at the beginning."""
    loader = make(seed=7)
    expected = epochs(make(seed=7), 3)
    if is_prepared:
        loader = ours.prepare(make_accelerator(), loader)
    skipped = ours.skip_first_batches(loader, 2)
    skipped.set_epoch(1)
    assert rows(skipped) == expected[1][2:]
    assert rows(skipped) == expected[2]
    assert rows(loader) == expected[0]


def test_copies_ahead_of_a_prepared_loader_count_what_was_handed_out(make, monkeypatch) -> None:
    """Behind Accelerate, which itself reads one batch ahead."""
    monkeypatch.setattr(copying, "stream_module", lambda _: FakeDevice())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    expected = epochs(make(seed=7), 2)
    batches = prefetch(ours.prepare(make_accelerator(), make(seed=7)), "cpu", depth=3)
    iterator = iter(batches)
    assert [next(iterator).tolist() for _ in range(2)] == expected[0][:2]
    again = prefetch(ours.prepare(make_accelerator(), make(seed=7)), "cpu", depth=3)
    again.load_state_dict(batches.state_dict())
    assert rows(again) == expected[0][2:]
    assert rows(again) == expected[1]


def test_prepared_loader_is_pickled_with_its_clock(make) -> None:
    """A copy counts its own epochs."""
    prepared = ours.prepare(make_accelerator(), make(seed=7))
    expected = epochs(make(seed=7))
    state = {**prepared.state_dict(), "epoch": 2, "position": 0}
    again = pickle.loads(pickle.dumps(prepared))
    again.load_state_dict(state)
    assert epochs(again, 2) == expected[2:]
    assert prepared.iteration == 0
