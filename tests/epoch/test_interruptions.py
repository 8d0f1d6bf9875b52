"""A signal handler raises while an epoch runs: it goes on with nothing lost, or says so."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

import fastload

LENGTH, BATCH = 60, 3
WHOLE = [list(range(first, first + BATCH)) for first in range(0, LENGTH, BATCH)]

WORKERS = {"num_workers": 2}
KEPT = {"num_workers": 2, "persistent_workers": True}
AUTO = {"num_workers": "auto"}
THREADS = {"num_workers": 2, "worker_method": "thread"}
KEPT_THREADS = {**THREADS, "persistent_workers": True}
WAYS = [{}, WORKERS, KEPT, AUTO, THREADS, KEPT_THREADS]
every_way = pytest.mark.parametrize("options", WAYS, ids=str)


class Interruption(Exception):
    """Raised by the signal handler."""


def interrupt(*_: Any) -> None:
    raise Interruption


class Handler:
    """A handler may be a method, or an object that can be called."""

    def method(self, *_: Any) -> None:
        raise Interruption

    __call__ = method


HANDLERS = [interrupt, functools.partial(interrupt, None), Handler().method, Handler()]


@contextlib.contextmanager
def handling(handler: Any = interrupt) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


class Once:
    """Sends the signal once, in the training process, when it is called for the nth time."""

    def __init__(self, after: int) -> None:
        self.after, self.owner = after, os.getpid()

    def __call__(self) -> None:
        self.after -= 1
        if self.after == 0 and os.getpid() == self.owner:
            signal.raise_signal(signal.SIGUSR1)


def read(loader: Any, handler: Any = interrupt) -> tuple[list[list[int]], int, bool]:
    """What a loop gets that goes on after interruptions; how many; whether the epoch said so."""
    seen: list[list[int]] = []
    count = 0
    with handling(handler):
        iterator = None
        while True:
            try:
                iterator = iter(loader) if iterator is None else iterator
                batch = next(iterator)
                seen.append((batch[0] if isinstance(batch, list) else batch).tolist())
            except Interruption:
                count += 1
            except StopIteration:
                return seen, count, False
            except fastload.LoadingInterrupted:
                return seen, count, True
            finally:
                if count > LENGTH:
                    raise AssertionError("an interruption was raised again and again")


class Sampler:
    """An order that a generator gives, which is dead after an exception."""

    def __init__(self, after: int) -> None:
        self.once = Once(after)

    def __len__(self) -> int:
        return LENGTH

    def __iter__(self) -> Iterator[int]:
        for index in range(LENGTH):
            self.once()
            yield index


class Numbers:
    """Sample k is k; loading one may be interrupted."""

    def __init__(self, after: int = 0) -> None:
        self.once = Once(after)

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> torch.Tensor:
        self.once()
        return torch.tensor(index)


@pytest.mark.parametrize("data", ["memory", "numbers"])
@pytest.mark.parametrize("handler", HANDLERS, ids=lambda each: type(each).__name__)
@every_way
def test_a_sampler_that_was_hit_is_not_the_end_of_the_epoch(options, data, handler):
    """What it had given is delivered, then the iterator says that the rest is lost."""
    dataset = TensorDataset(torch.arange(LENGTH)) if data == "memory" else Numbers()
    loader = fastload.DataLoader(dataset, BATCH, sampler=Sampler(after=40), **options)
    seen, count, is_said = read(loader, handler)
    assert count == 1
    assert is_said
    assert seen == WHOLE[: len(seen)]
    assert len(seen) == 39 // BATCH
    loader.close()


@pytest.mark.parametrize("options", [WORKERS, KEPT, KEPT_THREADS], ids=str)
def test_kept_workers_outlive_a_sampler_that_was_hit(options):
    """The loader's next epoch is whole."""
    loader = fastload.DataLoader(Numbers(), BATCH, sampler=Sampler(after=40), **options)
    assert read(loader)[2]
    assert read(loader) == (WHOLE, 0, False)
    loader.close()


@pytest.mark.parametrize("options", [{}, AUTO, {"on_error": "skip"}], ids=str)
def test_a_dataset_that_was_hit_loads_the_batch_again(options):
    """Without workers; the sample is not a bad one either, with ``on_error``."""
    loader = fastload.DataLoader(Numbers(after=10), BATCH, **options)
    assert read(loader) == (WHOLE, 1, False)
    assert loader.stats().errors == 0


def test_a_dataset_that_loads_whole_batches_is_not_asked_one_by_one():
    """That would hide the exception from the program."""

    class Whole(Numbers):
        def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
            self.once()
            return [torch.tensor(index) for index in indices]

    assert read(fastload.DataLoader(Whole(after=5), BATCH, on_error="skip")) == (WHOLE, 1, False)


def test_a_collate_function_that_was_hit_is_called_again():
    """Without workers."""
    once = Once(5)

    def collate(samples: list[Any]) -> torch.Tensor:
        once()
        return torch.stack(samples)

    loader = fastload.DataLoader(Numbers(), BATCH, collate_fn=collate)
    assert read(loader) == (WHOLE, 1, False)


def test_a_function_for_errors_that_was_hit_is_called_again():
    """The sample that failed is counted once."""
    once = Once(1)

    class Failing(Numbers):
        def __getitem__(self, index: int) -> torch.Tensor:
            if index == 7:
                raise ValueError
            return torch.tensor(index)

    def replace(error: Exception, index: int) -> torch.Tensor:
        once()
        return torch.tensor(index)

    loader = fastload.DataLoader(Failing(), BATCH, on_error=replace)
    assert read(loader) == (WHOLE, 1, False)
    assert loader.stats().errors == 1


@pytest.mark.parametrize("options", [{}, AUTO, {"on_error": "skip"}], ids=str)
def test_a_stream_that_was_hit_is_not_at_its_end(options):
    """A generator is dead then; the iterator says so."""
    once = Once(10)

    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[int]:
            for index in range(LENGTH):
                once()
                yield index

    seen, count, is_said = read(fastload.DataLoader(Stream(), BATCH, **options))
    assert (seen, count, is_said) == (WHOLE[:3], 1, True)


class Index(int):
    """An index that is interrupted while it is pickled."""

    once: Once

    def __reduce__(self) -> Any:
        Index.once()
        return int, (int(self),)


@pytest.mark.parametrize("options", [WORKERS, KEPT], ids=str)
def test_indices_that_were_hit_while_pickled_are_pickled_again(options):
    """Nothing is lost."""
    Index.once = Once(20)
    loader = fastload.DataLoader(
        Numbers(), BATCH, sampler=[Index(k) for k in range(LENGTH)], **options
    )
    assert read(loader) == (WHOLE, 1, False)
    loader.close()


class Restored(list):
    """A batch whose unpickling is interrupted."""

    once: Once

    def __setstate__(self, state: Any) -> None:
        Restored.once()

    def __reduce__(self) -> Any:
        return Restored, (), 1, iter(self)


def test_a_batch_that_was_hit_while_unpickled_is_not_left_out():
    """The iterator says that it is lost."""
    Restored.once = Once(4)
    loader = fastload.DataLoader(Numbers(), BATCH, collate_fn=_restored, num_workers=2)
    seen, count, is_said = read(loader)
    assert (seen, count, is_said) == (WHOLE[:3], 1, True)


def _restored(samples: list[Any]) -> Restored:
    return Restored([torch.stack(samples)])


UNORDERED = {"num_workers": 2, "in_order": False}
STORMS = [{}, WORKERS, KEPT, UNORDERED, THREADS, KEPT_THREADS, {**THREADS, "in_order": False}]


# An exception between the call that opens a file and the line that notes it leaves it open.
@pytest.mark.leaves(r"descriptor \d+ (pipe:|anon_inode:)")
@pytest.mark.parametrize("data", ["memory", "numbers"])
@pytest.mark.parametrize("options", STORMS, ids=str)
def test_exceptions_at_any_moment_lose_nothing_without_a_word(options, data, monkeypatch):
    """Every epoch gives all batches, or some of them once each and then says so."""
    lost: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: lost.append(it.object))
    dataset = TensorDataset(torch.arange(LENGTH)) if data == "memory" else Numbers()
    loader = fastload.DataLoader(dataset, BATCH, **options)
    for round_ in range(12):
        seen, is_said = _stormy(loader, 0.0003 + 0.00003 * round_)
        seen.sort()
        assert seen == [batch for batch in WHOLE if batch in seen]
        assert is_said or seen == WHOLE
        # At the end of a batch no code of ours runs, from which nobody could raise anything.
        assert not [each for each in lost if each.__module__.startswith("fastload.")]
    loader.close()


def _stormy(loader: Any, interval_s: float) -> tuple[list[list[int]], bool]:
    armed = False

    def handler(*_: Any) -> None:
        if armed:
            raise Interruption

    got: list[Any] = []
    is_over = is_said = False
    before = signal.signal(signal.SIGALRM, handler)
    iterator = iter(loader)
    signal.setitimer(signal.ITIMER_REAL, interval_s, interval_s)
    while not (is_over or is_said):
        number = len(got)
        try:
            armed = True
            got.extend(itertools.islice(iterator, 1))  # no handler between return and storing
            armed = False
            is_over = len(got) == number
        except Interruption:
            armed = False
        except fastload.LoadingInterrupted:
            armed, is_said = False, True
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    return [(each[0] if isinstance(each, list) else each).tolist() for each in got], is_said


@pytest.mark.parametrize("options", [WORKERS, THREADS, {"num_workers": "auto"}], ids=str)
def test_no_code_of_pythons_runs_where_an_iterator_ends(options):
    """A signal handler could run there, and what it raises would be lost."""
    with fastload.DataLoader(Numbers(), BATCH, **options) as loader:
        assert not isinstance(type(iter(loader)).__del__, types.FunctionType)
