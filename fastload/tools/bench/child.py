"""Run one command alone: in a session of its own, under a time limit, its memory watched.

Runs in: the parent of all measurements (`Child`) and the processes it starts (`await_turn`).
Takes: a command line, of a program that calls `await_turn` when it has imported what it needs.
Gives: what it printed, how it ended, the most memory its process tree held at once.

    parent                          child
    Child(command) ───starts───▶    imports
    await_ready()  ◀──"r"───────    await_turn() ... blocked, so that others can be measured
    finish()       ───"g"──────▶    works
                   ◀──ends──────

The two talk through a socket, the child's *lifeline*. When the parent's end closes, for whatever
reason, the kernel kills the child's process group, so that nothing is ever left behind.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import psutil
from typing_extensions import Self

from fastload.tools.bench.tree_memory import tree_memory_bytes

FOLDER = "FASTLOAD_BENCH_FOLDER"
"""The variable that names the folder in which a command may leave files."""

_LIFELINE = "FASTLOAD_BENCH_LIFELINE"
_SAMPLE_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended. `returncode` is negative where a signal ended it."""

    returncode: int
    stdout: str
    stderr: str
    overran: bool
    elapsed_s: float
    peak_memory_bytes: int


class Child:
    """A command in a session of its own, with a folder of its own for its files.

    Leaving the context kills what is left of the command and removes the folder.

    Args:
        command: program and arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastload-bench-"))
            self._stdout = stack.enter_context(tempfile.TemporaryFile())
            self._stderr = stack.enter_context(tempfile.TemporaryFile())
            self._lifeline, theirs = socket.socketpair()
            stack.enter_context(self._lifeline)
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._stdout,
                    stderr=self._stderr,
                    start_new_session=True,
                    pass_fds=(theirs.fileno(),),
                    env={**os.environ, FOLDER: folder, _LIFELINE: str(theirs.fileno())},
                )
            stack.callback(self._kill_session)
            self._resources = stack.pop_all()
        self._is_ready = False
        self._is_gone = False

    def await_ready(self, limit_s: float) -> None:
        """Wait until the command awaits its turn, ends, or the time is over."""
        if not self._is_ready and select.select([self._lifeline], [], [], limit_s)[0]:
            self._is_ready = bool(self._lifeline.recv(1))

    def finish(self, limit_s: float) -> Finished:
        """Let the command work and wait for its end; kill it when it takes more than `limit_s`."""
        started = time.perf_counter()
        self.await_ready(limit_s)
        if self._is_ready:
            with contextlib.suppress(BrokenPipeError):
                self._lifeline.send(b"g")
        overran, peak = self._watch(started + limit_s)
        elapsed_s = time.perf_counter() - started
        self._kill_session()
        texts = []
        for file in (self._stdout, self._stderr):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return Finished(self._process.returncode, texts[0], texts[1], overran, elapsed_s, peak)

    def _watch(self, deadline: float) -> tuple[bool, int]:
        """Wait for the end or the deadline; return whether it overran, and its peak memory."""
        peak = 0
        while True:
            remaining_s = deadline - time.perf_counter()
            if remaining_s <= 0:
                return True, peak
            try:
                self._process.wait(min(_SAMPLE_INTERVAL_S, remaining_s))
            except subprocess.TimeoutExpired:
                peak = max(peak, tree_memory_bytes(self._process.pid))
            else:
                return False, peak

    def _kill_session(self) -> None:
        """Kill what is left of the group and whatever descends from its leader, once."""
        if self._is_gone:
            return
        self._is_gone = True
        descendants: list[psutil.Process] = []
        if self._process.poll() is None:
            with contextlib.suppress(psutil.Error):
                descendants = psutil.Process(self._process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for descendant in descendants:
            with contextlib.suppress(psutil.Error):
                descendant.kill()
        self._process.wait()
        psutil.wait_procs(descendants, timeout=5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._resources.close()


def await_turn() -> None:
    """Tell the parent that all is imported, and wait until nothing else runs.

    From then on the kernel kills this process group when the parent is gone (on Linux). In a
    process that no `Child` started nothing happens.
    """
    descriptor = os.environ.pop(_LIFELINE, None)
    if descriptor is None:
        return
    lifeline = int(descriptor)
    os.write(lifeline, b"r")
    if not os.read(lifeline, 1):
        sys.exit("the process that started this one is gone")
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        os.killpg(0, signal.SIGKILL)
