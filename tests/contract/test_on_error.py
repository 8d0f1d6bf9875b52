"""Samples that cannot be loaded: raised, left out or replaced, and always counted."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

import fastload

BAD = (5, 8, 9, 10, 11)


class Bad(Dataset):
    """Raises at some indices."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        if index in BAD:
            raise ValueError(f"broken file {index}")
        return torch.tensor(index)


class BadBatches(Bad):
    """Raises for a whole batch that has a bad sample."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


class BadStream(IterableDataset):
    """An iterator of its own class, which can go on after an error."""

    def __iter__(self):
        return _Numbers()


class _Numbers:
    def __init__(self) -> None:
        self.next = 0

    def __iter__(self):
        return self

    def __next__(self) -> int:
        self.next += 1
        if self.next > 10:
            raise StopIteration
        if self.next == 4:
            raise ValueError("broken record")
        return self.next


class BadGenerator(IterableDataset):
    """A generator, which ends with its error."""

    def __iter__(self):
        yield 1
        raise ValueError("broken record")


def negative(error: Exception, index: int) -> torch.Tensor | None:
    """Replaces a sample."""
    return torch.tensor(-index)


def only_odd(error: Exception, index: int) -> torch.Tensor | None:
    """Leaves out even samples; others are errors."""
    if index % 2:
        raise error
    return None


def load(dataset, workers: int, **options) -> tuple[list[list[int]], fastload.Stats]:
    loader = fastload.DataLoader(dataset, num_workers=workers, **options)
    return [batch.tolist() for batch in loader], loader.stats()


pytestmark = pytest.mark.parametrize("workers", [0, 2])


@pytest.mark.parametrize("dataset", [Bad(), BadBatches()])
def test_skip_makes_batches_smaller_and_leaves_out_empty_ones(dataset, workers):
    """The batch of a failed sample is smaller; one of which nothing is left is not delivered."""
    batches, stats = load(dataset, workers, batch_size=4, on_error="skip")
    assert batches == [[0, 1, 2, 3], [4, 6, 7], [12, 13, 14, 15], [16, 17, 18, 19]]
    assert stats.errors == 5
    assert [sample.index for sample in stats.skipped] == list(BAD)
    assert stats.skipped[0].error == "ValueError: broken file 5"


def test_callable_puts_another_sample_in_its_place(workers):
    """What it returns takes the failed sample's place in the batch."""
    batches, stats = load(Bad(), workers, batch_size=4, on_error=negative)
    assert batches[1:3] == [[4, -5, 6, 7], [-8, -9, -10, -11]]
    assert stats.errors == 5


def test_callable_may_raise(workers):
    """What it raises is the batch's error; the batches before it are delivered."""
    loader = fastload.DataLoader(Bad(), batch_size=4, num_workers=workers, on_error=only_odd)
    iterator = iter(loader)
    assert next(iterator).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="broken file 5"):
        next(iterator)


def test_more_errors_than_allowed_are_an_error(workers):
    """The cap holds over all workers; the last sample's own exception is the cause."""
    loader = fastload.DataLoader(
        Bad(), batch_size=4, num_workers=workers, on_error="skip", max_errors=4
    )
    with pytest.raises(fastload.TooManyErrors, match=r"max_errors=4.*index 11") as caught:
        list(loader)
    assert isinstance(caught.value.__cause__, ValueError)


def test_errors_count_anew_in_each_epoch(workers):
    """``max_errors`` is of one epoch."""
    loader = fastload.DataLoader(
        Bad(), batch_size=4, num_workers=workers, on_error="skip", max_errors=5
    )
    assert len(list(loader)) == len(list(loader)) == 4


def test_unbatched_samples_that_fail_are_left_out(workers):
    """Without automatic batching a failed sample is simply not there."""
    samples, stats = load(Bad(), workers, batch_size=None, on_error="skip")
    assert samples == [index for index in range(20) if index not in BAD]
    assert stats.errors == 5


def test_stream_goes_on_after_an_error(workers):
    """An iterator is asked for the next sample; batches stay full."""
    batches, stats = load(BadStream(), workers, batch_size=3, on_error="skip")
    assert [1, 2, 3] in batches
    assert [5, 6, 7] in batches
    assert stats.errors == max(1, workers)


def test_generator_cannot_go_on_and_raises(workers):
    """Its error is raised: going on would end the epoch silently."""
    loader = fastload.DataLoader(BadGenerator(), batch_size=1, num_workers=workers, on_error="skip")
    with pytest.raises(ValueError, match="broken record"):
        list(loader)


def test_resume_counts_batches_that_were_left_out(workers):
    """The state counts the order's batches, whether or not something was left of them."""
    options = {"batch_size": 4, "num_workers": workers, "on_error": "skip"}
    loader = fastload.DataLoader(Bad(), **options)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    again = fastload.DataLoader(Bad(), **options)
    again.load_state_dict(loader.state_dict())
    assert [batch.tolist() for batch in again] == [[16, 17, 18, 19]]


def test_wrong_option_is_refused_at_once(workers):
    """With what is allowed."""
    with pytest.raises(ValueError, match="'raise', 'skip' or a function"):
        fastload.DataLoader(Bad(), num_workers=workers, on_error="ignore")
    with pytest.raises(ValueError, match="count from 0"):
        fastload.DataLoader(Bad(), num_workers=workers, max_worker_restarts=-1)
    for limit in (-1, "1MB"):
        with pytest.raises(ValueError, match=f"memory_limit is a number of bytes.*{limit!r}"):
            fastload.DataLoader(Bad(), num_workers=workers, memory_limit=limit)


def test_what_replaces_a_sample_of_a_stream_stands_in_its_place(workers):
    """The callable gets the error and the position; batches keep their size."""
    batches, stats = load(
        BadStream(), workers, batch_size=5, on_error=lambda error, position: -position
    )
    assert batches == [[1, 2, 3, -3, 5]] * max(1, workers) + [[6, 7, 8, 9, 10]] * max(1, workers)
    assert stats.errors == max(1, workers)
