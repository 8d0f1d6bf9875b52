"""Signals that arrive while workers are started: handled once, and nothing is left changed."""

import contextlib
import ctypes
import faulthandler
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

import fastload
from fastload._pool import pool

_armed = []


def _at_fork():
    if _armed:
        _armed.pop()()


os.register_at_fork(before=_at_fork)  # for good, and harmless unless armed


def send():
    os.kill(os.getpid(), signal.SIGUSR1)


def start_workers():
    return len(list(fastload.DataLoader(range(8), num_workers=3)))


@contextlib.contextmanager
def handling(handler, number=signal.SIGUSR1):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


class Action(ctypes.Structure):
    """C's ``struct sigaction`` of Linux on 64 bits."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


def flags_of(number):
    action = Action()
    ctypes.CDLL(None).sigaction(number, None, ctypes.byref(action))
    return action.flags


def test_a_signal_of_the_consumer_is_not_handled_in_its_workers(tmp_path):
    """The handler runs when the fork is over; a worker's copy of the note of it is not its own."""
    handled = tmp_path / "handled"

    def note(*_):
        with handled.open("a") as file:
            file.write(f"{os.getpid()}\n")

    _armed.append(send)
    with handling(note):
        assert start_workers() == 8
    assert handled.read_text().split() == [str(os.getpid())]


def test_a_signal_is_told_once_to_the_wakeup_descriptor():
    """asyncio counts the bytes, not the calls."""
    ours, theirs = socket.socketpair()
    with ours, theirs, handling(lambda *_: None):
        ours.setblocking(False)
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno())
        try:
            _armed.append(send)
            start_workers()
        finally:
            signal.set_wakeup_fd(before)
        assert ours.recv(100).count(signal.SIGUSR1) == 1


def test_a_signal_that_the_main_thread_blocks_is_handled_all_the_same():
    """Another thread gets it; Python runs the handler in the main thread."""
    handled, is_over = [], threading.Event()
    thread = threading.Thread(target=is_over.wait)
    thread.start()

    def send_to_thread():
        signal.pthread_kill(thread.ident, signal.SIGUSR1)

    with handling(lambda *_: handled.append(1)):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            _armed.append(send_to_thread)
            start_workers()
        finally:
            is_over.set()
            thread.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert handled == [1]


def test_a_handler_in_c_over_one_in_python_stays(tmp_path):
    """Python's table still names its own."""
    with (tmp_path / "stacks").open("w+") as file, handling(lambda *_: None):
        faulthandler.register(signal.SIGUSR1, file)
        try:
            start_workers()
            send()
        finally:
            faulthandler.unregister(signal.SIGUSR1)
        file.seek(0)
        assert "test_a_handler_in_c" in file.read()


def test_the_flags_of_a_signal_stay():
    """``signal.signal`` resets SA_RESTART, which asyncio sets."""
    with handling(lambda *_: None):
        signal.siginterrupt(signal.SIGUSR1, False)
        before = flags_of(signal.SIGUSR1)
        start_workers()
        assert flags_of(signal.SIGUSR1) == before


def test_a_process_that_another_thread_forks_meanwhile_has_its_handlers():
    """Not those that only take notes."""

    def handler(*_):
        pass

    codes = []

    def fork():
        child = os.fork()
        if child == 0:
            os._exit(0 if signal.getsignal(signal.SIGUSR1) is handler else 7)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    def fork_in_another_thread():
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()

    with handling(handler):
        _armed.append(fork_in_another_thread)
        start_workers()
    assert codes == [0]


def count_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


class Interruption(Exception):
    """Raised by a signal handler."""


def interrupt(*_):
    raise Interruption


def test_an_exception_of_a_handler_is_never_taken_for_the_batchs_own(monkeypatch):
    """The batch in hand is lost, and the iterator says so instead of going on without it."""
    iterator = iter(fastload.DataLoader(range(8), batch_size=2, num_workers=1))
    with handling(interrupt):
        monkeypatch.setattr(pool.Slots, "may_lease", lambda _: send())
        with pytest.raises(Interruption):
            next(iterator)
    monkeypatch.undo()
    with pytest.raises(fastload.LoadingInterrupted):
        next(iterator)


def test_an_interrupted_start_leaves_no_descriptors(monkeypatch):
    """The interruption waits until somebody has them."""
    monkeypatch.setattr(pool, "oom_kills", lambda: send() or 0)
    before = count_descriptors()
    with handling(interrupt):
        for _ in range(3):
            with pytest.raises(Interruption):
                start_workers()
    assert count_descriptors() == before
