"""Run one command alone: in a session of its own, under a time limit, its memory watched.

Runs in: the parent of all measurements (`run`) and the processes it starts (`hold_lifeline`).
Takes: a command line.
Gives: what it printed, how it ended, the most memory its process tree held at once. Nothing of the
    session is left afterwards, not even if this process is killed: the command holds the read end
    of a pipe, the *lifeline*, and when its write end closes, the kernel kills the command's group.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

from fastload.bench.memory import tree_memory_bytes

_LIFELINE = "FASTLOAD_BENCH_LIFELINE"


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended. `returncode` is negative where a signal ended it."""

    returncode: int
    stdout: str
    stderr: str
    overran: bool
    elapsed_s: float
    peak_memory_bytes: int


def run(command: Sequence[str], *, limit_s: float, sample_interval_s: float = 0.1) -> Finished:
    """Run `command` to its end, or kill all of its session after `limit_s`.

    Args:
        command: program and arguments.
        limit_s: the time limit.
        sample_interval_s: how often the memory of the process tree is read.
    """
    with contextlib.ExitStack() as stack:
        stdout, stderr = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        lifeline = stack.enter_context(_open_lifeline())
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=(lifeline,),
            env={**os.environ, _LIFELINE: str(lifeline)},
        )
        try:
            overran, peak = _watch(process, started + limit_s, sample_interval_s)
            elapsed_s = time.perf_counter() - started
        finally:
            _kill_session(process)
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Finished(process.returncode, texts[0], texts[1], overran, elapsed_s, peak)


def hold_lifeline() -> None:
    """Let the kernel kill this process group when the process that ran `run` is gone.

    Linux only; elsewhere, and in a process that `run` did not start, nothing happens.
    """
    descriptor = os.environ.pop(_LIFELINE, None)
    if descriptor is None or sys.platform != "linux":
        return
    import fcntl

    lifeline = int(descriptor)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


@contextlib.contextmanager
def _open_lifeline() -> Iterator[int]:
    read_end, write_end = os.pipe()
    try:
        yield read_end
    finally:
        os.close(read_end)
        os.close(write_end)


def _watch(
    process: subprocess.Popen[bytes], deadline: float, interval_s: float
) -> tuple[bool, int]:
    """Wait for the end or the deadline; return whether it overran, and its peak memory."""
    peak = 0
    while True:
        remaining_s = deadline - time.perf_counter()
        if remaining_s <= 0:
            return True, peak
        try:
            process.wait(min(interval_s, remaining_s))
        except subprocess.TimeoutExpired:
            peak = max(peak, tree_memory_bytes(process.pid))
        else:
            return False, peak


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the group and whatever descends from its leader."""
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        descendants = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for descendant in descendants:
        with contextlib.suppress(psutil.Error):
            descendant.kill()
    process.wait()
    psutil.wait_procs(descendants, timeout=5)
