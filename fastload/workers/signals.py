"""Signals while workers are forked: none is lost, and none upsets the child.

Python runs what other modules want done at a fork (``os.register_at_fork``) and ignores every
exception in it. An exception of a signal handler, a Ctrl-C for one, that is raised there would be
printed as ignored and gone: the program runs on. In a child that is not ready yet it would end
the worker. So handlers wait until the fork is over.

Runs in: consumer and worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

_put_off: dict[int, Any] = {}
_arrived: list[tuple[int, int]] = []
"""Process and number: a worker must not take up what had arrived in the consumer before."""


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Run no handler of a signal before the end of the block; then those of all that arrived."""
    if threading.current_thread() is not threading.main_thread():
        # Handlers run in the main thread; the child's main thread, however, will be this one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    try:
        for number in range(1, signal.NSIG):
            handler = signal.getsignal(number)
            if callable(handler):
                _put_off[number] = handler
                signal.signal(number, _note)
        yield
    finally:
        _take_up()


def settle_in_worker() -> None:
    """Leave Ctrl-C to the consumer, let SIGTERM end the worker, and take up what was put off."""
    # A handler, not SIG_IGN: programs that user code starts must not inherit deafness.
    _put_off[signal.SIGINT] = lambda *_: None
    _put_off[signal.SIGTERM] = signal.SIG_DFL
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _take_up()


def _note(number: int, *_: object) -> None:
    _arrived.append((os.getpid(), number))


def _take_up() -> None:
    """Install the handlers again and run those of the signals that arrived, once each."""
    try:
        _install()
    finally:
        arrived = dict.fromkeys(number for process, number in _arrived if process == os.getpid())
        _arrived.clear()
        with contextlib.ExitStack() as handlers:  # each runs, whatever another one raises
            for number in arrived:
                handlers.callback(signal.raise_signal, number)


def _install() -> None:
    try:
        while _put_off:
            number = next(iter(_put_off))
            signal.signal(number, _put_off[number])
            del _put_off[number]
    finally:
        if _put_off:  # one that was installed again has raised
            _install()
