"""No write of ours to a pipe ends the program, whatever the program does at SIGPIPE."""

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from fastload._system import pipes

DEADLINE_S = 240

PROGRAM = """
    import os, signal, sys, time
    import torch
    from torch.utils.data import Dataset, IterableDataset, get_worker_info
    from fastload import DataLoader

    at_sigpipe, method, keep = sys.argv[1], sys.argv[2], sys.argv[3] == "keep"

    class Unequal(IterableDataset):
        def __iter__(self):
            for number in range(1 if get_worker_info().id == 0 else 24):
                time.sleep(0.002)
                yield number

    class Numbers(Dataset):
        def __len__(self):
            return 32

        def __getitem__(self, index):
            return torch.full((64,), index)

    class Deadly(Numbers):
        def __getitem__(self, index):
            if index == 9 and not os.path.exists(sys.argv[4]):
                open(sys.argv[4], "w").close()
                os._exit(1)
            return super().__getitem__(index)

    def handler(*_):
        print("the program's handler was called")

    if __name__ == "__main__":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL if at_sigpipe == "default" else handler)
        options = dict(batch_size=4, num_workers=2, multiprocessing_context=method)
        unequal = DataLoader(Unequal(), persistent_workers=keep, **options)
        numbers = DataLoader(Numbers(), persistent_workers=keep, **options)
        for epoch in range(2):
            assert sum(len(batch) for batch in unequal) == 25
            for batch in numbers:
                time.sleep(0.005)  # workers that are not kept leave before the last batches
            for number, batch in enumerate(numbers):
                time.sleep(0.005)
                if number == 6:
                    break
        deadly = DataLoader(Deadly(), max_worker_restarts=1, **options)
        assert sum(len(batch) for batch in deadly) == 32
        is_unchanged = signal.getsignal(signal.SIGPIPE) in (signal.SIG_DFL, handler)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        print("whole" if is_unchanged and not blocked else f"changed: {blocked}")
"""


@pytest.mark.parametrize(
    ("at_sigpipe", "method", "keep"),
    [
        *itertools.product(["default", "handler"], ["fork"], ["keep", "renew"]),
        ("handler", "forkserver", "renew"),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in [
                ("default", "forkserver", "keep"),
                *itertools.product(["default", "handler"], ["spawn"], ["keep", "renew"]),
            ]
        ),
    ],
)
def test_a_program_with_its_own_sigpipe_loads_whole_epochs(at_sigpipe, method, keep, tmp_path):
    """It is neither killed nor told of a signal, and its handler and its mask stay as they are."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", program, at_sigpipe, method, keep, tmp_path / "mark"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (ended.returncode, ended.stdout) == (0, "whole\n"), ended.stderr


@pytest.fixture
def unread():
    """The write end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@pytest.fixture
def at_sigpipe():
    """Sets what this process does at SIGPIPE."""
    before = signal.getsignal(signal.SIGPIPE)
    yield lambda handler: signal.signal(signal.SIGPIPE, handler)
    signal.signal(signal.SIGPIPE, before)
    pipes.look_for_native_handler()


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_write_that_nobody_reads_is_an_error(handler, unread, at_sigpipe):
    """And nothing is left pending or blocked."""
    at_sigpipe(handler)
    with pytest.raises(BrokenPipeError):
        pipes.write(unread, b"x")
    assert not signal.sigpending()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_handler_that_c_code_has_set_is_not_called_either(unread, at_sigpipe):
    """Although Python believes that the signal is ignored."""
    called = []
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(called.append)
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    before = libc.signal(signal.SIGPIPE, handler)
    try:
        pipes.look_for_native_handler()
        with pytest.raises(BrokenPipeError):
            pipes.write(unread, b"x")
    finally:
        libc.signal(signal.SIGPIPE, ctypes.c_void_p(before))
    assert not called


def test_a_sigpipe_that_was_pending_before_stays_so(unread, at_sigpipe):
    """A program that blocks the signal and asks for it later still gets its own."""
    at_sigpipe(lambda *_: None)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        signal.raise_signal(signal.SIGPIPE)
        with pytest.raises(BrokenPipeError):
            pipes.write(unread, b"x")
        assert signal.SIGPIPE in signal.sigpending()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
