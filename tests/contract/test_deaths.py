"""Workers that die, hang or cannot send: always an error, soon."""

import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from .datasets import Made, Numbers, keep, numbers_of
from .ways import (
    AS_RETURNED,
    NO_PROCESS,
    better_than_torch,
    every_way,
    one_epoch,
    with_workers,
)

SOON_S = 120.0
HANG_S = 240

SIGNAL_HANDLER = (
    "a handler of SIGCHLD raises wherever the main thread is, also outside of the loop; "
    "an exit with code 0 is seen after five seconds, without the code"
)

pytestmark = with_workers


@contextlib.contextmanager
def soon():
    """The block takes no longer than a person would wait."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < SOON_S


class Dying(Numbers):
    """The worker that is asked for one of the samples dies."""

    def __init__(self, length, at, how):
        super().__init__(length)
        self.at, self.how = at, how

    def __getitem__(self, index):
        if index == self.at:
            if isinstance(self.how, signal.Signals):
                os.kill(os.getpid(), self.how)
            else:
                os._exit(self.how)
        return super().__getitem__(index)


@every_way
@better_than_torch(SIGNAL_HANDLER)
@NO_PROCESS
def test_killed_worker_is_an_error_that_names_the_signal(make_loader):
    """A worker killed by a signal is a RuntimeError in torch's words, with the signal's name."""
    iterator = iter(make_loader(Dying(40, 9, signal.SIGKILL)))
    words = r"DataLoader worker \(pid \d+\) is killed by signal: (SIGKILL|Killed)"
    with pytest.raises(RuntimeError, match=words):
        for _ in iterator:
            pass


@better_than_torch(SIGNAL_HANDLER)
@pytest.mark.parametrize("code", [0, 3])
@NO_PROCESS
def test_exiting_worker_is_an_error_that_names_the_code(make_loader, code):
    """A worker that leaves by os._exit is a RuntimeError with its exit code."""
    iterator = iter(make_loader(Dying(40, 9, code)))
    with soon(), pytest.raises(RuntimeError, match=rf"\b{code}\b"):
        for _ in iterator:
            pass


@better_than_torch(SIGNAL_HANDLER)
@pytest.mark.parametrize("sent", [signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT])
@NO_PROCESS
def test_worker_that_crashes_is_an_error(make_loader, sent, capfd):
    """Any signal that ends a worker is named."""
    iterator = iter(make_loader(Dying(40, 9, sent)))
    with soon(), pytest.raises(RuntimeError, match=rf"{sent.name}|\b{int(sent)}\b"):
        for _ in iterator:
            pass


@better_than_torch(SIGNAL_HANDLER)
@NO_PROCESS
def test_loader_starts_anew_after_a_death(make_loader):
    """After a worker's death the next epoch of the same loader is whole."""
    is_deadly = torch.ones(1).share_memory_()

    def item(index):
        if index == 5 and is_deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return index

    loader = make_loader(Made(8, item))
    with soon(), pytest.raises(RuntimeError):
        list(loader)
    is_deadly.zero_()
    assert numbers_of(loader) == [[k] for k in range(8)]


@better_than_torch(SIGNAL_HANDLER)
@NO_PROCESS
def test_worker_killed_while_idle_is_an_error(make_loader):
    """A worker that is killed between two batches is noticed at the next one."""
    iterator = iter(make_loader(Made(400, lambda k: os.getpid()), batch_size=None))
    victim = next(iterator)
    os.kill(victim, signal.SIGKILL)
    with soon(), pytest.raises(RuntimeError, match=r"SIGKILL|[Ss]ignal 9|Killed"):
        for _ in iterator:
            pass


class _Unsendable:
    def __reduce__(self):
        raise TypeError("this object stays here")


UNSENDABLE = {
    "lock": threading.Lock,
    "lambda": lambda: lambda: 1,
    "generator": lambda: (k for k in range(3)),
    "raises when pickled": _Unsendable,
    "too deep": lambda: _nested(100_000),
    "gradient": lambda: torch.ones(2, requires_grad=True) * 2,
}


def _nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@one_epoch
@better_than_torch("a batch that cannot be pickled hangs")
@pytest.mark.parametrize("kind", UNSENDABLE)
@pytest.mark.parametrize("beside", ["alone", "tensors"])
@AS_RETURNED
def test_batch_that_cannot_be_sent_raises(make_loader, kind, beside):
    """A batch that cannot be pickled raises, and the following batches come."""

    def item(index):
        if index != 3:
            return index
        what = UNSENDABLE[kind]()
        return what if beside == "alone" else {"x": torch.ones(3), "y": np.ones(2), "z": [what]}

    iterator = iter(make_loader(Made(8, item), batch_size=1, collate_fn=keep, timeout=HANG_S))
    assert [next(iterator) for _ in range(3)] == [[0], [1], [2]]
    with soon(), pytest.raises(Exception) as caught:
        next(iterator)
    assert not isinstance(caught.value, StopIteration)
    assert "timed out" not in str(caught.value)
    assert list(iterator) == [[4], [5], [6], [7]]


class _Poison:
    """Arrives as an exception."""

    def __reduce__(self):
        return _explode, ()


def _explode():
    raise ValueError("poison")


@AS_RETURNED
def test_batch_that_cannot_be_rebuilt_raises(make_loader):
    """An object that raises when it is unpickled here raises here."""
    loader = make_loader(Made(4, lambda k: _Poison()), batch_size=None)
    with pytest.raises((ValueError, RuntimeError), match="poison"):
        next(iter(loader))


def test_timeout_raises_and_the_next_call_resumes(way, make_loader):
    """A slow batch raises after the timeout, and comes when it is there; none is lost."""
    go_on = torch.multiprocessing.get_context("fork").Event()

    def item(index):
        if index == 4:
            go_on.wait(HANG_S)
        return index

    iterator = iter(make_loader(Made(12, item), batch_size=2, timeout=0.6))
    assert [next(iterator).tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with soon(), pytest.raises(RuntimeError, match="timed out"):
        next(iterator)
    with soon(), pytest.raises(RuntimeError, match="timed out"):
        next(iterator)
    go_on.set()
    rest = []
    while len(rest) < 4:
        with contextlib.suppress(RuntimeError):  # On a slow machine it may time out again.
            rest.append(next(iterator).tolist())
    assert rest == [[4, 5], [6, 7], [8, 9], [10, 11]]
    assert list(iterator) == []


def test_iterator_dropped_while_a_worker_is_busy_ends_soon(way, make_loader):
    """Leaving an epoch does not wait for what workers are doing."""
    if way.is_torch:
        pytest.skip("better than torch: waits five seconds for each busy worker")
    if way.has_threads and way.is_persistent:
        pytest.skip("threads: one that is busy is left behind with a warning")
    started = torch.multiprocessing.get_context("fork").Event()

    def item(index):
        started.set()
        threading.Event().wait(HANG_S)

    loader = make_loader(Made(12, item))
    iterator = iter(loader)
    assert started.wait(HANG_S)
    with soon():
        del iterator
        loader.close()
