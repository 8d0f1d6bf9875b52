"""Exceptions of a dataset arrive as if there were no workers, with more to read."""

import subprocess
import sys
import traceback
import urllib.error

import pytest
import torch

from .datasets import Made, Numbers, numbers_of
from .same import assert_same
from .ways import better_than_torch, every_way, one_epoch


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


@one_epoch
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
            make_loader(Failing(6, 3, lambda: Local("mine")), timeout=240 if way.has_workers else 0)
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
