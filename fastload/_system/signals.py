"""Signals while workers are forked: none is lost, and none upsets the child.

Python runs what other modules want done at a fork (``os.register_at_fork``) and ignores every
exception in it. An exception of a signal handler, a Ctrl-C for one, that is raised there would be
printed as ignored and gone: the program runs on. In a child that is not ready yet it would end
the worker. So handlers wait until the fork is over.

Runs in: consumer and worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

_deferred: dict[int, tuple[Any, bytes | None]] = {}
"""By signal: its handler, and what the system says of it (None: nothing but the handler)."""

_arrived: list[tuple[int, int]] = []
"""Process and number: a worker must not take up what had arrived in the consumer before."""

_this_thread = threading.local()
"""Knows whether it is the one that puts off; a forked child knows it of its only thread."""

_libc = ctypes.CDLL(None)
_SIGACTION_BYTES = 256
"""At least the size of C's ``struct sigaction``, which begins with the handler's address."""


@contextlib.contextmanager
def defer() -> Iterator[None]:
    """Run no handler of a signal before the end of the block; then those of all that arrived."""
    if threading.current_thread() is not threading.main_thread():
        # Handlers run in the main thread; the child's main thread, however, will be this one.
        with sigint_blocked():
            yield
        return
    _this_thread.puts_off = True
    try:
        for number in range(1, signal.NSIG):
            handler = signal.getsignal(number)
            if callable(handler):
                action = _action(number)
                _deferred[number] = handler, action
                signal.signal(number, _note)
                if _address(_action(number)) != _address(action):
                    _install(number)  # C code has put its own handler over Python's
        yield
    finally:
        _deliver_deferred()


@contextlib.contextmanager
def sigint_blocked() -> Iterator[None]:
    """Block SIGINT in this thread, and in the processes that it starts until they unblock it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def settle_in_worker() -> None:
    """Leave Ctrl-C to the consumer, let SIGTERM end the worker, and take up what was put off."""
    # A handler, not SIG_IGN: programs that user code starts must not inherit deafness.
    _deferred[signal.SIGINT] = (lambda *_: None), None
    _deferred[signal.SIGTERM] = signal.SIG_DFL, None
    _deliver_deferred()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGPIPE})


def native_handler(number: int) -> bytes:
    """The address of the handler that the system has for a signal, as it lies in memory.

    Python's own table does not show a handler that C code has put over Python's.
    """
    return _address(_action(number))


def _note(number: int, *_: object) -> None:
    _arrived.append((os.getpid(), number))


def _deliver_deferred() -> None:
    """Install the handlers again and run those of the signals that arrived, once each."""
    try:
        _install_all()
    finally:
        arrived = dict.fromkeys(number for process, number in _arrived if process == os.getpid())
        _arrived.clear()
        _handle(list(arrived))


def _handle(numbers: list[int]) -> None:
    """Run each handler, whatever another one raises."""
    if not numbers:
        return
    try:
        handler = signal.getsignal(numbers[0])
        if callable(handler):  # a signal sent again could be blocked, and would be counted twice
            handler(numbers[0], sys._getframe())
        else:
            signal.raise_signal(numbers[0])
    finally:
        _handle(numbers[1:])


def _install_all() -> None:
    try:
        while _deferred:
            _install(next(iter(_deferred)))
    finally:
        if _deferred:  # one that was installed again has raised
            _install_all()


def _install(number: int) -> None:
    handler, action = _deferred[number]
    signal.signal(number, handler)
    if action is not None:  # signal.signal resets the flags, SA_RESTART for one
        _libc.sigaction(number, action, None)
    del _deferred[number]


def _action(number: int) -> bytes:
    buffer = ctypes.create_string_buffer(_SIGACTION_BYTES)
    _libc.sigaction(number, None, buffer)
    return buffer.raw


def _address(action: bytes) -> bytes:
    return action[: ctypes.sizeof(ctypes.c_void_p)]


def _restore_in_stranger() -> None:
    """Another thread has forked a process of its own, to which put-off handlers were copied."""
    if _deferred and not hasattr(_this_thread, "puts_off"):
        _install_all()
        _arrived.clear()


os.register_at_fork(after_in_child=_restore_in_stranger)
