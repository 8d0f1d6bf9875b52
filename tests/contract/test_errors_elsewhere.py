"""Exceptions outside of `__getitem__`: in samplers, streams, collate and init functions."""

import pytest
import torch
from torch.utils.data import IterableDataset

from .datasets import Made, Numbers, Stream, numbers_of
from .test_errors import Failing, Fault, _printed
from .ways import better_than_torch, with_workers


def _fail(samples):
    if 4 in samples:
        raise ValueError("collating failed")
    return samples


def test_exception_in_collate_arrives(make_loader):
    """A collate function's exception is the batch's, and loading goes on."""
    iterator = iter(make_loader(Numbers(8), batch_size=2, collate_fn=_fail))
    assert [next(iterator), next(iterator)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="collating failed"):
        next(iterator)
    assert list(iterator) == [[6, 7]]


def test_ragged_samples_raise_torchs_error(make_loader):
    """Samples that cannot be stacked raise torch's type with torch's words."""
    loader = make_loader(Made(4, lambda k: torch.zeros(k + 1)), batch_size=2)
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        list(loader)


class _Sampler:
    """Yields four indices, then raises."""

    def __len__(self):
        return 8

    def __iter__(self):
        yield from range(4)
        raise ValueError("sampler failed")


@pytest.mark.parametrize("place", ["sampler", "batch_sampler"])
def test_exception_in_a_sampler_arrives(make_loader, place):
    """A sampler's exception arrives as it is."""
    sampler = _Sampler() if place == "sampler" else ([k] for k in _Sampler())
    with pytest.raises(ValueError, match="sampler failed"):
        list(make_loader(Numbers(8), **{place: sampler}))


@better_than_torch("prefetching raises it before batches that are already loaded")
def test_exception_in_a_sampler_comes_in_its_place(make_loader):
    """All batches before a sampler's exception are delivered before it."""
    iterator = iter(make_loader(Numbers(8), sampler=_Sampler()))
    assert numbers_of([next(iterator) for _ in range(4)]) == [[0], [1], [2], [3]]
    with pytest.raises(ValueError, match="sampler failed"):
        next(iterator)


class _Broken(IterableDataset):
    def __init__(self, at):
        self.at = at

    def __iter__(self):
        if self.at == 0:
            raise Fault(0, "start")
        return self._numbers()

    def _numbers(self):
        yield from range(self.at)
        raise ValueError("stream failed")


def test_exception_in_a_stream_arrives(make_loader):
    """What a stream raises arrives after the samples before it."""
    iterator = iter(make_loader(_Broken(2), batch_size=1))
    first = next(iterator)
    assert first.tolist() == [0]
    with pytest.raises(ValueError, match="stream failed"):
        for _ in range(10):
            next(iterator)


@better_than_torch("an exception with two arguments becomes a RuntimeError")
def test_exception_when_a_stream_starts_arrives(make_loader):
    """An exception of `__iter__` arrives at iter() or the first next()."""
    with pytest.raises(Fault):
        next(iter(make_loader(_Broken(0))))


def _fail_in_init(worker_id):
    raise LookupError(f"worker {worker_id} refuses")


@with_workers
def test_exception_in_worker_init_function_arrives(make_loader):
    """What worker_init_fn raises arrives, and names the worker."""
    with pytest.raises(LookupError, match="refuses"):
        list(make_loader(Numbers(4), worker_init_fn=_fail_in_init))


@better_than_torch("it ends the epoch silently", inline_too=True)
def test_stop_iteration_in_getitem_is_a_runtime_error(make_loader):
    """StopIteration of an indexed dataset is an error, not the end of the epoch."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(make_loader(Failing(8, 2, StopIteration)))


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@with_workers
@better_than_torch("the message is lost")
def test_base_exceptions_in_a_worker_are_raised(make_loader, kind):
    """A worker that is told to exit by user code says so."""
    with pytest.raises((kind, RuntimeError)) as caught:
        list(make_loader(Failing(8, 2, lambda: kind("my words"))))
    assert "my words" in _printed(caught.value)


def test_index_beyond_the_dataset_is_an_index_error(make_loader):
    """A sampler that asks for too much gets the dataset's IndexError."""
    with pytest.raises(IndexError):
        list(make_loader(Numbers(3), sampler=[0, 5]))


def test_streams_are_usable_after_an_exception(make_loader):
    """Leaving an epoch by an exception does not spoil the next loader."""
    with pytest.raises(ValueError, match="stream failed"):
        list(make_loader(_Broken(1)))
    assert len(list(make_loader(Stream(4), batch_size=None))) >= 4
