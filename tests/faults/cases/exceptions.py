"""Exceptions of user code."""

from __future__ import annotations

import threading
import urllib.error
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from tests.faults.case import Case, add, fault
from tests.faults.cases.acts import AT, At, Raise
from tests.faults.trial import Made, Stamped, Trial, describe


class Detailed(Exception):
    """Takes two arguments and keeps them."""

    def __init__(self, code: int, place: str) -> None:
        super().__init__(f"{code} at {place}")
        self.code, self.place = code, place


def _with_lock() -> Exception:
    error = ValueError("held")
    error.lock, error.rows = threading.Lock(), [1, 2]  # type: ignore[attr-defined]
    return error


def _with_cause() -> Exception:
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    return error


def _group() -> Exception:
    return ExceptionGroup("both", [ValueError("a"), KeyError("b")])  # noqa: F821


def _members(error: Any) -> str:
    return f"members {error.exceptions!r}"


RAISED: list[tuple[int, str, Callable[[], BaseException], Callable[[Any], str], str]] = [
    (23, "value_error", lambda: ValueError("text", 3), lambda e: f"args {e.args}", r"'text', 3"),
    (24, "key_error", lambda: KeyError("k"), lambda e: f"args {e.args}", r"args \('k',\)"),
    (
        25,
        "http_error",
        lambda: urllib.error.HTTPError("http://a", 404, "Not Found", {}, None),  # type: ignore[arg-type]
        lambda e: f"code {e.code}",
        "HTTPError.*code 404",
    ),
    (
        25,
        "unicode_error",
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        lambda e: f"start {e.start}",
        "UnicodeDecodeError.*start 0",
    ),
    (
        25,
        "two_arguments",
        lambda: Detailed(7, "here"),
        lambda e: f"code {e.code} {e.place}",
        "Detailed.*code 7 here",
    ),
    (26, "unpicklable_attribute", _with_lock, lambda e: f"rows {e.rows}", r"rows \[1, 2\]"),
    (
        27,
        "file_not_found",
        lambda: FileNotFoundError(2, "gone", "a.jpeg"),
        lambda e: f"errno {e.errno} filename {e.filename}",
        "errno 2 filename a.jpeg",
    ),
    (28, "exception_group", _group, _members, r"members .*ValueError\('a'\).*KeyError\('b'\)"),
    (
        29,
        "cause",
        _with_cause,
        lambda e: f"cause {e.__cause__!r}",
        r"ValueError.*cause KeyError\('inner'\)",
    ),
]


def _is_raised(
    number: int, name: str, make: Callable[[], Any], tell: Callable[[Any], str], expect: str
) -> None:
    def run(trial: Trial) -> str:
        text = ""
        try:
            list(trial.loader(Stamped(At(Raise(make)))))
        except BaseException as error:
            text = f"{describe(error)}\n{_told(tell, error)}"
        return text

    told = f"a dataset raises {name.replace('_', ' ')}"
    add(Case((number,), f"raises_{name}", told, run, expect))


def _told(tell: Callable[[Any], str], error: BaseException) -> str:
    try:
        return tell(error)
    except Exception as lost:
        return f"lost: {lost}"


for _row in RAISED:
    _is_raised(*_row)


@fault(
    23,
    "which sample failed is said",
    expect=r"samples 0 to 19, then ValueError: mine.*dataset index 21.*worker \d, batch 5",
)
def failing_sample_is_named(trial: Trial) -> str:
    return trial.read(trial.loader(Stamped(At(Raise(lambda: ValueError("mine"))))))


@fault(30, "an exception of a class that only the worker has", expect="Local: mine|mine")
def local_exception_class(trial: Trial) -> str:
    class Local(Exception):
        pass

    return trial.read(trial.loader(Stamped(At(Raise(lambda: Local("mine"))))))


@fault(
    31,
    "StopIteration in __getitem__",
    expect="samples 0 to 19, then RuntimeError: .*StopIteration for index 21",
)
def stop_iteration(trial: Trial) -> str:
    return trial.read(trial.loader(Stamped(At(Raise(StopIteration)))))


@fault(
    31,
    "StopIteration in __getitem__, without workers",
    expect="samples 0 to 19, then RuntimeError: .*StopIteration for index 21",
)
def stop_iteration_inline(trial: Trial) -> str:
    return trial.read(trial.loader(Stamped(At(Raise(StopIteration))), num_workers=0))


class Stream(IterableDataset[Any]):
    """Raises when it is started for the nth time, or after some samples."""

    def __init__(self, fails_at_start: int = 0, fails_after: int = 10**9) -> None:
        self.fails_at_start, self.fails_after, self.starts = fails_at_start, fails_after, 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.starts += 1
        if self.starts == self.fails_at_start:
            raise Detailed(self.starts, "start")
        return self._samples()

    def _samples(self) -> Iterator[torch.Tensor]:
        for number in range(8):
            if number == self.fails_after:
                raise Detailed(number, "stream")
            yield torch.full((4,), float(number))


@fault(32, "__iter__ of a stream raises", expect="nothing, then Detailed: 1 at start")
def stream_fails_at_start(trial: Trial) -> str:
    return trial.read(trial.loader(Stream(1), num_workers=1))


@fault(
    32, "a stream raises after some samples", expect="samples 0 to 3, then Detailed: 5 at stream"
)
def stream_fails_later(trial: Trial) -> str:
    return trial.read(trial.loader(Stream(fails_after=5), num_workers=1))


@fault(
    33,
    "__iter__ of a stream raises in the second epoch, workers kept",
    expect="samples 0 to 7; then nothing, then Detailed: 2 at start",
)
def stream_fails_in_epoch_2(trial: Trial) -> str:
    loader = trial.loader(Stream(2), num_workers=1, persistent_workers=True)
    epochs = [trial.read(loader), trial.read(loader)]
    _end(trial, loader)
    return "; then ".join(epochs)


def _end(trial: Trial, loader: Any) -> None:
    if not trial.is_torch:
        loader.close()
    elif loader._iterator is not None:
        loader._iterator._shutdown_workers()


class Lies(Stream):
    """Says that it has fewer samples than it gives."""

    def __len__(self) -> int:
        return 4


@fault(34, "a stream gives more samples than its len", expect="samples 0 to 7; UserWarning: Length")
def length_lies(trial: Trial) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader = trial.loader(Lies(), num_workers=1, batch_size=1)
        assert len(loader) == 4
        text = trial.read(loader)
    said = {f"{w.category.__name__}: {str(w.message)[:40]}" for w in caught}
    return f"{text}; {', '.join(sorted(said))}"


@fault(
    35,
    "samples of different shapes",
    expect=r"samples 0 to 19, then RuntimeError: stack expects.*\n.*21.*\(7,\).*\(4,\)|"
    r"samples 0 to 19, then RuntimeError: stack expects.*21",
)
def ragged_samples(trial: Trial) -> str:
    def make(index: int) -> torch.Tensor:
        return torch.full((7 if index == AT else 4,), float(index))

    return trial.read(trial.loader(Made(make)))


@fault(
    35,
    "a sample is None",
    expect="samples 0 to 19, then TypeError: .*21",
)
def none_sample(trial: Trial) -> str:
    def make(index: int) -> Any:
        return None if index == 20 else torch.full((4,), float(index))

    return trial.read(trial.loader(Made(make)))


@fault(
    36,
    "the sampler raises after 21 indices",
    expect="samples 0 to 19, then ValueError: mine",
)
def sampler_raises(trial: Trial) -> str:
    def indices() -> Iterator[int]:
        yield from range(AT)
        raise ValueError("mine")

    class Sampler:
        def __iter__(self) -> Iterator[int]:
            return indices()

    return trial.read(trial.loader(sampler=Sampler()))


@fault(37, "a sampler gives tensors as indices", expect="all 64 samples, in order")
def sampler_gives_tensors(trial: Trial) -> str:
    return trial.read(trial.loader(sampler=list(torch.arange(64))))


@fault(
    39,
    "the training loop goes on after an exception",
    expect=r"60 samples \(0 twice, 4 of 64 missing\)",
)
def goes_on_after_an_exception(trial: Trial) -> str:
    iterator = iter(trial.loader(Stamped(At(Raise(lambda: ValueError("mine"))))))
    first = trial.read(iterator)
    ids = list(trial.ids)
    trial.read(iterator)
    trial.ids[:0] = ids
    return f"{trial.seen()}; {first.splitlines()[0]}"


@fault(40, "endless recursion in __getitem__", expect="samples 0 to 19, then RecursionError")
def endless_recursion(trial: Trial) -> str:
    def recurse(index: int) -> Any:
        return recurse(index)

    return trial.read(trial.loader(Stamped(lambda k: recurse(k) if k == AT else None)))


@fault(41, "a dataset runs out of memory in NumPy", expect="_ArrayMemoryError|MemoryError")
def numpy_memory_error(trial: Trial) -> str:
    import numpy as np

    return trial.read(trial.loader(Stamped(At(lambda: np.ones(1 << 55)))))


@fault(42, "workers print", expect="all 64 samples, in order")
def workers_print(trial: Trial) -> str:
    import sys

    return trial.read(trial.loader(Stamped(lambda index: print(index, file=sys.stderr))))
