"""Where errors are passed over or explained, those that a signal handler raises are not."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import fastload
from fastload._epoch.settings import _options
from fastload._loading.map_style import explain_failure
from fastload._loading.on_error import Tolerance
from fastload._memory.view import Skeleton
from fastload._pool.start import Starter
from fastload._system.interruptions import in_c, own_suppressed
from fastload._wire import exceptions
from fastload._worker.job import empty_spec
from fastload.collate.inplace import collate_in_place
from fastload.datasets.ranks_and_workers import epoch_of
from fastload.datasets.row_blocks import reading
from fastload.errors import annotate, show
from fastload.samplers.dealing import _take


class Interruption(Exception):
    """Raised by the signal handler."""


@contextlib.contextmanager
def a_handler_that_raises(error: type[Exception] = Interruption) -> Iterator[None]:
    def handler(*_: Any) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupt() -> None:
    signal.raise_signal(signal.SIGUSR1)


class Interrupted:
    """Any look at it is interrupted."""

    def __repr__(self) -> str:
        interrupt()
        return ""

    def __len__(self) -> int:
        interrupt()
        return 0

    def __reduce__(self) -> Any:
        interrupt()
        return Interrupted, ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        interrupt()
        raise AttributeError(name)


class Unlucky(Exception):
    """An exception that is interrupted when it is looked at."""

    where: str = ""

    def __str__(self) -> str:
        if self.where == "text":
            interrupt()
        return "its text"

    def __reduce__(self) -> Any:
        if self.where == "pickled":
            interrupt()
        return (_unpickled if self.where == "unpickled" else Unlucky), ()

    def add_note(self, note: str) -> None:
        interrupt()


def _unpickled() -> Unlucky:
    interrupt()
    return Unlucky()


def an_error(where: str) -> Unlucky:
    error = Unlucky()
    error.where = where
    return error


def unpack() -> None:
    good = exceptions.pack(ValueError("its text"))
    record = pickle.loads(good)._replace(pickled=_INTERRUPTED_WHEN_UNPICKLED)
    exceptions.unpack(pickle.dumps(record), "somewhere")


_INTERRUPTED_WHEN_UNPICKLED = pickle.dumps(an_error("unpickled"))


def start_by_spawn() -> None:
    spec = dataclasses.replace(empty_spec(), dataset=Interrupted())
    Starter(spec, None, torch.multiprocessing.get_context("spawn"), None, [], None)  # type: ignore[arg-type]


def read_a_damaged_file() -> None:
    with reading("some.parquet"):
        interrupt()


def deal() -> None:
    def indices() -> Iterator[int]:
        yield 0
        interrupt()

    _take(indices(), 2)


PLACES = {
    "a text for an index": lambda: show(Interrupted()),
    "a note": lambda: annotate(an_error("note"), "a note"),
    "an exception that is pickled": lambda: exceptions.pack(an_error("pickled")),
    "an exception's text": lambda: exceptions.pack(an_error("text")),
    "an exception that is unpickled": unpack,
    "a sample that is left out": lambda: Tolerance("skip").stand_in(3, an_error("pickled")),
    "a dataset that is pickled": start_by_spawn,
    "a dataset's epoch": lambda: epoch_of(Interrupted()),
    "a file": read_a_damaged_file,
    "an order that is dealt to ranks": deal,
    "an option of a sampler": lambda: list(_options(Interrupted(), ["seed"])),
}


@pytest.mark.parametrize("kind", [Interruption, TimeoutError])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_an_exception_from_outside_is_raised_as_it_is(place: Any, kind: type[Exception]) -> None:
    """Whatever is tried there: it is no error of what is looked at."""
    with a_handler_that_raises(kind), pytest.raises(kind) as raised:
        place()
    assert type(raised.value) is kind


def test_a_batch_that_is_put_together_anew() -> None:
    """The shortcut for later batches is looked for again."""
    content = pickle.dumps([1, 2])
    skeleton = Skeleton(content)
    skeleton.assemble([])
    with pytest.MonkeyPatch.context() as patch, a_handler_that_raises():
        patch.setattr("fastload._memory.view._LeavesOnly.load", lambda _: interrupt())
        with pytest.raises(Interruption):
            skeleton.assemble([])
    assert skeleton.assemble([]) == [1, 2]


def collate_error(samples: list[Any], collate_fn: Any) -> BaseException:
    loader = fastload.DataLoader(samples, 2, collate_fn=collate_fn)
    with a_handler_that_raises(), pytest.raises(Interruption) as raised:
        next(iter(loader))
    return raised.value


@pytest.mark.parametrize("collate_fn", [None, fastload.pad], ids=["default", "pad"])
def test_what_hits_a_failing_collate_is_not_taken_for_its_error(collate_fn: Any) -> None:
    """While the error's explanation is looked for."""

    class Odd(dict):
        """Has no such fields as another, which to describe is interrupted."""

        def __iter__(self) -> Iterator[Any]:
            interrupt()
            return super().__iter__()

    collate_error([{"a": object()}, Odd(a=object())], collate_fn)


def test_an_interruption_is_not_explained_by_the_samples() -> None:
    """Samples that do not fit have nothing to do with it."""
    samples = [torch.zeros(2), torch.zeros(3)]
    with a_handler_that_raises():
        try:
            interrupt()
        except Interruption as error:
            explain_failure(error, collate_in_place, samples, [0, 1])
            notes = getattr(error, "__notes__", [])
    assert sys.version_info < (3, 11) or notes == []


def test_a_call_into_c_is_made_once_for_each_set_of_arguments() -> None:
    """Then nothing is called any more; what the callback is given does not matter."""
    seen: list[int] = []
    callback = in_c(seen.append, (1, 2))
    for _ in range(3):
        callback(object())
    assert seen == [1, 2]


def test_own_errors_are_passed_over() -> None:
    """Those of the named classes only."""
    with own_suppressed(OSError):
        raise TimeoutError
    with pytest.raises(KeyError), own_suppressed(OSError):
        raise KeyError
