"""The next epoch loads while this one ends, and nobody can tell but by the time it takes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import fastload
from fastload._epoch.seeded import SeededWorkersIterator

from .datasets import EVERYTHING, Drawing


class Noting(Drawing):
    """Writes down which samples are loaded, in which epoch it was told of."""

    def __init__(self, length: int, file: Path) -> None:
        super().__init__(length, EVERYTHING)
        self.file = file
        self.epoch = 0

    def __getitem__(self, index: int) -> torch.Tensor:
        with self.file.open("a") as notes:
            notes.write(f"{self.epoch} {index}\n")
        return super().__getitem__(index)


class ToldOfEpochs(Noting):
    """Its samples are of the epoch that it was told."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index) + self.epoch


def kept(dataset: Any, **options: Any) -> fastload.DataLoader[Any]:
    return fastload.DataLoader(
        dataset,
        **{
            "batch_size": 4,
            "shuffle": True,
            "seed": 6,
            "num_workers": 2,
            "persistent_workers": True,
            **options,
        },
    )


def without_workers(dataset: Any, epoch: int) -> list[torch.Tensor]:
    loader = fastload.DataLoader(dataset, batch_size=4, shuffle=True, seed=6)
    loader.set_epoch(epoch)
    return list(loader)


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


def wait_for(file: Path, lines: int) -> None:
    """Wait until so many samples were loaded."""
    deadline = time.monotonic() + 30
    while len(file.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline, "the next epoch is not loaded ahead"
        time.sleep(0.01)


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"workers_per_batch": 2}])
def test_epochs_are_those_without_workers(options):
    """Also epochs of fewer batches than are loaded ahead."""
    for length in (12, 50):
        with kept(Drawing(length, EVERYTHING), **options) as loader:
            for epoch in range(5):
                assert_equal(list(loader), without_workers(Drawing(length, EVERYTHING), epoch))


def test_the_next_epoch_is_loaded_before_it_is_asked_for(tmp_path):
    """As many batches of it as may be on their way."""
    file = tmp_path / "notes"
    with kept(Noting(12, file)) as loader:
        list(loader)
        wait_for(file, 24)


def test_a_dataset_that_is_told_epochs_hears_of_the_next_one_behind_the_last_sample(tmp_path):
    """Each sample is loaded in its own epoch."""
    file = tmp_path / "notes"
    with kept(ToldOfEpochs(20, file)) as loader:
        for epoch in range(4):
            loader.set_epoch(epoch)
            found = list(loader)
            expected = without_workers(ToldOfEpochs(20, tmp_path / "others"), epoch)
            assert_equal(found, expected)


def test_another_epoch_than_the_next_throws_away_what_was_loaded(tmp_path):
    """``set_epoch``, a loaded state and another dataset say what comes; nothing is mixed."""
    file = tmp_path / "notes"
    with kept(Noting(12, file)) as loader:
        list(loader)
        wait_for(file, 24)
        loader.set_epoch(7)
        assert_equal(list(loader), without_workers(Drawing(12, EVERYTHING), 7))
        iterator = iter(loader)
        first = next(iterator)
        state = loader.state_dict()
        rest = list(iterator)
        loader.load_state_dict(state)
        assert_equal(list(loader), rest)
        assert_equal([first, *rest], without_workers(Drawing(12, EVERYTHING), 8))


def test_the_state_between_epochs_is_the_beginning_of_the_next(tmp_path):
    """Whatever of it is loaded already."""
    file = tmp_path / "notes"
    with kept(Noting(12, file)) as loader:
        list(loader)
        wait_for(file, 24)
        state = loader.state_dict()
        assert (state["epoch"], state["position"], loader.epoch) == (1, 0, 0)


class FailingLater(Noting):
    """One sample can't be loaded any more, once all have been loaded."""

    def __getitem__(self, index: int) -> torch.Tensor:
        sample = super().__getitem__(index)
        if index == 3 and self.file.read_text().count(" 3\n") > 1:
            raise ValueError("gone")
        return sample


def test_an_error_of_the_next_epoch_is_raised_in_it(tmp_path):
    """And not in the one that ends, though it happened then."""
    file = tmp_path / "notes"
    with kept(FailingLater(12, file), shuffle=False, redo=False) as loader:
        assert len(list(loader)) == 3
        wait_for(file, 24)
        with pytest.raises(ValueError, match="gone"):
            list(loader)


def test_samples_left_out_ahead_are_counted_in_their_epoch(tmp_path):
    """``stats()`` of an epoch knows nothing of the next."""
    file = tmp_path / "notes"
    with kept(FailingLater(12, file), on_error="skip", redo=False) as loader:
        list(loader)
        wait_for(file, 24)
        assert loader.stats().errors == 0
        list(loader)
        assert loader.stats().errors == 1
        assert loader.stats().batches == 3


@pytest.mark.filterwarnings("ignore:.*was started again")
def test_a_worker_killed_between_epochs_loses_nothing(tmp_path):
    """What it had loaded or begun of the next epoch is loaded again."""
    file = tmp_path / "notes"
    with kept(Noting(12, file), max_worker_restarts=4) as loader:
        for epoch in range(3):
            iterator = iter(loader)
            assert_equal(list(iterator), without_workers(Drawing(12, EVERYTHING), epoch))
            wait_for(file, 12 * (epoch + 2))
            os.kill(iterator._workers[epoch % 2].pid, signal.SIGKILL)


def test_epochs_that_are_given_up_leave_nothing_behind():
    """Slots and tasks of what was loaded ahead and never asked for are free again."""
    with kept(Drawing(12, EVERYTHING)) as loader:
        for epoch in range(0, 60, 3):
            loader.set_epoch(epoch)
            list(loader)
        iterator = iter(loader)
        list(iterator)
        assert isinstance(iterator, SeededWorkersIterator)
        tasks = iterator._pool.tasks
        deadline = time.monotonic() + 30
        while len(tasks._flying) > 2 and time.monotonic() < deadline:
            iterator._pool.pump(0.1)
        assert len(tasks._flying) <= 2
