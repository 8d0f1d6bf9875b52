"""Exceptions of user code arrive as if there were no workers, with more to read."""

import subprocess
import sys
import traceback
import urllib.error

import pytest
import torch
from torch.utils.data import IterableDataset

from .datasets import Made, Numbers, Stream, numbers_of
from .same import assert_same
from .ways import better_than_torch, every_way, with_workers


class Fault(Exception):
    """An exception with two arguments and an attribute."""

    def __init__(self, code, place):
        super().__init__(f"{code} at {place}")
        self.code, self.place = code, place
        self.context_of_mine = {"rows": [1, 2]}


class Silent(Exception):
    """An exception without arguments."""


class Failing(Numbers):
    """Raises at one index, an exception made by a function."""

    def __init__(self, length, at, make):
        super().__init__(length)
        self.at, self.make = at, make

    def __getitem__(self, index):
        if index == self.at:
            raise self.make()
        return super().__getitem__(index)


def fault():
    return Fault(7, "here")


def _printed(error):
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


# Exceptions, and which attributes must survive.
KEPT = {
    "two arguments": (fault, ["code", "place", "context_of_mine"]),
    "no argument": (Silent, []),
    "ValueError": (lambda: ValueError("text", 3), []),
    "KeyError": (lambda: KeyError("key"), []),
    "OSError": (lambda: OSError(28, "full", "/file"), ["errno", "strerror", "filename"]),
    "FileNotFoundError": (lambda: FileNotFoundError(2, "gone", "a", None, "b"), ["filename2"]),
    "UnicodeDecodeError": (
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ["encoding", "object", "start", "end", "reason"],
    ),
    "CalledProcessError": (
        lambda: subprocess.CalledProcessError(3, ["cmd"], b"out"),
        ["returncode", "cmd", "output"],
    ),
    "HTTPError": (
        lambda: urllib.error.HTTPError("http://a", 404, "Not Found", {}, None),
        ["code", "msg", "filename"],
    ),
    "SyntaxError": (
        lambda: SyntaxError("bad", ("f.py", 3, 5, "x =")),
        ["filename", "lineno", "text"],
    ),
    "ImportError": (lambda: ImportError("no", name="n", path="/p"), ["name", "path"]),
    "MemoryError": (lambda: MemoryError("big"), []),
    "RecursionError": (lambda: RecursionError("deep"), []),
    "AssertionError": (AssertionError, []),
    "NotImplementedError": (NotImplementedError, []),
    "OutOfMemoryError": (lambda: torch.OutOfMemoryError("gpu"), []),
}
if sys.version_info >= (3, 11):
    KEPT["ExceptionGroup"] = (
        lambda: ExceptionGroup("both", [ValueError(1), KeyError("k")]),  # noqa: F821
        ["message"],
    )


@better_than_torch("exceptions are rebuilt from one text, or replaced by another one")
@pytest.mark.parametrize("kind", KEPT)
def test_exception_arrives_with_type_arguments_and_attributes(make_loader, kind):
    """An exception of the dataset arrives as the same type with the same contents."""
    make, attributes = KEPT[kind]
    with pytest.raises(BaseException) as caught:
        list(make_loader(Failing(6, 3, make)))
    expected = make()
    assert type(caught.value) is type(expected)
    if kind == "ExceptionGroup":
        assert [repr(e) for e in caught.value.exceptions] == ["ValueError(1)", "KeyError('k')"]
    else:
        assert_same(caught.value.args, expected.args)
    for name in attributes:
        assert_same(getattr(caught.value, name), getattr(expected, name))


@every_way
@better_than_torch("the sample is not named", inline_too=True)
def test_worker_traceback_and_index_are_printed(make_loader):
    """The printed exception shows the failing line of the dataset and names the sample."""
    loader = make_loader(Failing(2000, 1379, fault), batch_size=4, sampler=[3, 5, 8, 9, 4, 1379])
    with pytest.raises(Fault) as caught:
        list(loader)
    printed = _printed(caught.value)
    assert "raise self.make()" in printed
    assert "in __getitem__" in printed
    assert "1379" in printed


@better_than_torch("the cause is flattened into text")
def test_cause_of_an_exception_stays(make_loader):
    """What an exception was raised from is still its cause."""

    def item(index):
        try:
            {}["inner"]
        except KeyError as error:
            raise ValueError("outer") from error

    with pytest.raises(ValueError, match="outer") as caught:
        list(make_loader(Made(2, item)))
    chain, error = [], caught.value
    while error is not None:
        chain.append(type(error))
        error = error.__cause__
    assert KeyError in chain
    assert "inner" in _printed(caught.value)


def test_unpicklable_attribute_of_an_exception_harms_nobody(make_loader):
    """An exception that holds what cannot be sent still arrives as its type."""

    def make():
        error = ValueError("held")
        error.generator = (k for k in range(3))
        return error

    with pytest.raises(ValueError, match="held"):
        list(make_loader(Failing(6, 3, make)))


def test_local_exception_class_arrives_as_an_exception(way, make_loader):
    """A class that cannot be imported arrives as itself or as a RuntimeError that shows it."""
    if way.name == "torch":
        pytest.skip("better than torch: hangs")

    class Local(Exception):
        pass

    with pytest.raises((Local, RuntimeError)) as caught:
        list(
            make_loader(Failing(6, 3, lambda: Local("mine")), timeout=20 if way.has_workers else 0)
        )
    assert "mine" in _printed(caught.value)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_batches_after_an_exception_are_intact(make_loader, batch_size):
    """The batch that failed is skipped; the following ones come whole and in order."""
    loader = make_loader(Failing(12, 4, lambda: ValueError("once")), batch_size=batch_size)
    for _ in range(2):
        iterator, seen = iter(loader), []
        while True:
            try:
                seen += numbers_of([next(iterator)])
            except ValueError:
                seen.append("error")
            except StopIteration:
                break
        if batch_size is None:
            assert seen == [0, 1, 2, 3, "error", *range(5, 12)]
        else:
            assert seen == [[0, 1], [2, 3], "error", [6, 7], [8, 9], [10, 11]]


def test_every_sample_failing_leaves_the_loader_usable(make_loader):
    """Any number of exceptions in a row is any number of exceptions."""
    broken = [True]

    def item(index):
        if index < 20:
            raise ValueError(index)
        return index

    iterator = iter(make_loader(Made(22, item), batch_size=1))
    for _ in range(20):
        with pytest.raises(ValueError, match=r"\d"):
            next(iterator)
    assert numbers_of(iterator) == [[20], [21]]
    assert broken


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
