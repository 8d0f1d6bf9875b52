"""``dataset.set_epoch`` in the training process holds in every worker's copy of the dataset."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

import fastload
from tests.start_methods import METHODS


class Stream(IterableDataset[torch.Tensor]):
    """Yields its epoch."""

    def __init__(self) -> None:
        self.epoch = 0
        self.calls = 0

    def set_epoch(self, epoch: int) -> None:
        if epoch == 13:
            raise ValueError("there is no epoch 13")
        self.epoch = epoch
        self.calls += 1

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield torch.tensor([self.epoch, self.calls])

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


class Rows(Dataset[int]):
    """Each row is the epoch; the process that reads the last one of epoch 2 may have to die."""

    def __init__(self, death: Path | None = None) -> None:
        self.epoch = 0
        self.death = death

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if self.death and self.epoch == 2 and index == 3 and self.death.exists():
            self.death.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.epoch


class Counting(Stream):
    """Counts its epochs by itself, in each worker."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield torch.tensor([self.epoch, self.calls])
        self.epoch += 1


class Unreadable(Stream):
    """Does not say which epoch was set."""

    def set_epoch(self, epoch: int) -> None:
        self._hidden = epoch

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield torch.tensor(getattr(self, "_hidden", -1))


@pytest.mark.parametrize("kind", [Stream, Rows])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("context", METHODS)
def test_every_worker_is_in_the_epoch_that_was_set(
    context: str, persistent: bool, kind: type[Stream | Rows]
) -> None:
    """However it was started, kept or new, for streams and for rows."""
    dataset = kind()
    with fastload.DataLoader(
        dataset,
        batch_size=None,
        num_workers=2,
        persistent_workers=persistent,
        multiprocessing_context=context,
    ) as loader:
        for epoch in (0, 3, 1) if persistent else (3,):
            dataset.set_epoch(epoch)
            assert {torch.as_tensor(batch).flatten()[0].item() for batch in loader} == {epoch}


def test_set_epoch_is_not_called_again_for_the_same_epoch() -> None:
    """A kept worker is told once; one that was forked after the call has nothing to be told."""
    dataset = Stream()
    dataset.set_epoch(2)
    with fastload.DataLoader(
        dataset, batch_size=None, num_workers=1, persistent_workers=True
    ) as loader:
        assert [batch.tolist() for batch in loader] == [[2, 1]]
        assert [batch.tolist() for batch in loader] == [[2, 1]]
        dataset.set_epoch(5)
        assert [batch.tolist() for batch in loader] == [[5, 2]]
        assert [batch.tolist() for batch in loader] == [[5, 2]]


def test_a_dataset_that_counts_epochs_itself_is_left_alone() -> None:
    """As with torch: only what the program sets is passed on."""
    loaders = [
        kind(Counting(), batch_size=None, num_workers=1, persistent_workers=True)
        for kind in (torch.utils.data.DataLoader, fastload.DataLoader)
    ]
    found = [[batch.tolist() for _ in range(3) for batch in loader] for loader in loaders]
    assert found[0] == found[1] == [[0, 0], [1, 0], [2, 0]]


def test_a_dataset_that_hides_its_epoch_is_as_with_torch() -> None:
    """There is nothing to compare, so kept workers are told nothing."""
    dataset = Unreadable()
    dataset.epoch = None  # type: ignore[assignment]
    with fastload.DataLoader(
        dataset, batch_size=None, num_workers=1, persistent_workers=True
    ) as loader:
        assert [batch.item() for batch in loader] == [-1]
        dataset.set_epoch(1)
        assert [batch.item() for batch in loader] == [-1]


def test_an_error_of_set_epoch_in_a_worker_is_raised() -> None:
    """In the place of the first batch."""
    dataset = Stream()
    with fastload.DataLoader(
        dataset, batch_size=None, num_workers=1, persistent_workers=True
    ) as loader:
        assert len(list(loader)) == 1
        dataset.epoch = 13
        with pytest.raises(ValueError, match="there is no epoch 13"):
            list(loader)


@pytest.mark.parametrize("context", METHODS)
def test_a_worker_that_is_started_again_is_in_the_epoch(context: str, tmp_path: Path) -> None:
    """Although its copy of the dataset may be an old one."""
    death = tmp_path / "die once"
    death.touch()
    dataset = Rows(death)
    with fastload.DataLoader(
        dataset,
        batch_size=1,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=context,
        max_worker_restarts=1,
    ) as loader:
        assert [batch.item() for batch in loader] == [0] * 4
        dataset.set_epoch(2)
        with pytest.warns(RuntimeWarning, match="was started again"):
            assert [batch.item() for batch in loader] == [2] * 4
    assert not death.exists()


def test_the_epoch_of_an_iterator_is_that_of_its_beginning() -> None:
    """What is set while it is read is for the next one."""
    dataset = Stream()
    with fastload.DataLoader(
        dataset, batch_size=None, num_workers=1, persistent_workers=True
    ) as loader:
        list(loader)
        dataset.set_epoch(1)
        iterator = iter(loader)
        dataset.set_epoch(2)
        assert next(iterator)[0] == 1
        assert next(iter(loader))[0] == 2
