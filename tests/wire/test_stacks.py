"""The person who looks at a hung or crashed worker sees where it was."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time

import pytest
import torch
from torch.utils.data import Dataset

import fastload
from fastload._epoch import diagnosis
from fastload._memory.arena import anonymous_file
from fastload._wire.stacks import READY, StackFile
from tests.start_methods import METHODS

HANG_S = 600


class Odd(Dataset):
    """Does something at index 5."""

    def __init__(self, do) -> None:
        self.do = do

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 5:
            self.do()
        return torch.tensor(index)


def wait_for_a_lock_that_is_held() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def hold_the_gil_in_c() -> None:
    libc = ctypes.PyDLL(None)
    libc.sleep(HANG_S)


def read_nowhere() -> None:
    ctypes.string_at(0)


def stop_oneself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("method", METHODS)
def test_timeout_shows_the_line_a_worker_waits_at(method):
    """The error names the function of the dataset that hangs."""
    loader = fastload.DataLoader(
        Odd(wait_for_a_lock_that_is_held),
        batch_size=2,
        num_workers=1,
        timeout=2,
        multiprocessing_context=method,
    )
    batches = iter(loader)
    said = ""
    while "wait_for_a_lock_that_is_held" not in said:  # before, it may still be starting
        with pytest.raises(fastload.LoadingTimeout) as caught:
            list(batches)
        said = str(caught.value)


def test_timeout_shows_a_worker_that_holds_the_gil():
    """The stack is written in the signal handler, without the interpreter."""
    loader = fastload.DataLoader(Odd(hold_the_gil_in_c), batch_size=2, num_workers=1, timeout=2)
    with pytest.raises(fastload.LoadingTimeout, match="hold_the_gil_in_c"):
        list(loader)


def test_timeout_of_a_stopped_worker_says_that_it_does_not_answer():
    """A process that is stopped can't show its stack."""
    loader = fastload.DataLoader(Odd(stop_oneself), batch_size=2, num_workers=1, timeout=2)
    with pytest.raises(fastload.LoadingTimeout, match="does not answer: is it stopped"):
        list(loader)


def test_crash_shows_the_stack_of_the_worker():
    """A segmentation fault names the line of Python that led to it."""
    loader = fastload.DataLoader(Odd(read_nowhere), batch_size=2, num_workers=1)
    with pytest.raises(fastload.WorkerDied, match=r"SIGSEGV[\s\S]*in read_nowhere") as caught:
        list(loader)
    assert caught.value.exitcode == -signal.SIGSEGV


def test_crash_shows_the_stack_where_the_program_has_a_handler_of_its_own():
    """Also if ``faulthandler`` was enabled before that handler was set."""
    faulthandler.enable(file=sys.__stderr__)
    before = signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    try:
        loader = fastload.DataLoader(Odd(read_nowhere), batch_size=2, num_workers=1)
        with pytest.raises(fastload.WorkerDied, match="in read_nowhere"):
            list(loader)
    finally:
        signal.signal(signal.SIGSEGV, before or signal.SIG_DFL)
        faulthandler.disable()
        faulthandler.enable(file=sys.__stderr__)


def test_a_worker_that_has_just_ended_has_no_stack_to_show():
    """A timeout stays one, although the worker could not be asked."""
    descriptor = anonymous_file()
    os.write(descriptor, READY)
    ended = multiprocessing.Process(target=int)
    ended.start()
    ended.join()
    stacks = StackFile(descriptor, 0, is_shared=False)
    assert stacks.ask(ended.pid) == ""
    stacks.close()


def test_without_a_timeout_a_stalled_worker_is_shown_once(monkeypatch):
    """After thirty seconds (here less) a warning comes once, and waiting goes on."""
    monkeypatch.setattr(diagnosis, "STALL_WARNING_S", 0.3)
    loader = fastload.DataLoader(Odd(lambda: time.sleep(1.5)), batch_size=2, num_workers=1)
    with pytest.warns(RuntimeWarning) as caught:
        batches = [batch.tolist() for batch in loader]
    assert batches == [[0, 1], [2, 3], [4, 5], [6, 7]]
    stalls = [str(warning.message) for warning in caught]
    assert len(stalls) == 1
    assert "batch 2 (dataset indices [4, 5])" in stalls[0]
    assert "time.sleep" in stalls[0] or "<lambda>" in stalls[0]
    assert caught[0].filename == __file__
