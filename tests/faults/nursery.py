"""A process that has imported everything and forks a fresh one for each case.

Importing torch takes over a second of CPU time, a fork milliseconds. The nursery itself runs no
loader, computes nothing and starts no thread, so each child is as new as a process can be. What was
imported is frozen for the garbage collector: each of the collections at a child's end would go
through all of it, and copy its pages, which takes longer than the case.

    with Nursery() as nursery:
        child = nursery.start("fastload", "worker_is_killed", stdout, stderr)
        child.code  # a descriptor from which the exit code can be read once it has ended
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import Self

ROOT = Path(__file__).parents[2]


class Child(NamedTuple):
    """A case that runs: the leader of a session of its own."""

    pid: int
    code: int


class Nursery:
    """The driver's side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.faults.nursery", str(theirs.fileno())],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()

    def start(self, loader: str, name: str, stdout: int, stderr: int) -> Child:
        """Run a case with these descriptors as its output."""
        read, write = os.pipe()
        with self._lock:
            request = json.dumps([loader, name]).encode()
            socket.send_fds(self._ours, [request], [stdout, stderr, write])
            pid = int(self._ours.recv(64))
        os.close(write)
        return Child(pid, read)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._process.wait()


def serve(channel: socket.socket) -> None:
    """Fork a child for each request and tell how it ended; returns in each child."""
    running: dict[int, tuple[int, int]] = {}
    while True:
        waited_for: list[Any] = [channel, *running]
        readable, _, _ = select.select(waited_for, [], [])
        for pidfd in set(running).intersection(readable):
            pid, told = running.pop(pidfd)
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(told)
            os.close(pidfd)
        if channel in readable:
            request, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 3)
            if not request:
                sys.exit()
            pid = os.fork()
            if pid == 0:
                for inherited in [
                    item for pidfd, (_, told) in running.items() for item in (pidfd, told)
                ]:
                    os.close(inherited)
                channel.close()
                begin(descriptors)
                sys.argv[1:] = json.loads(request)
                return
            os.close(descriptors[0])
            os.close(descriptors[1])
            running[os.pidfd_open(pid)] = pid, descriptors[2]
            channel.send(str(pid).encode())


def begin(descriptors: list[int]) -> None:
    """Make this child a process of its own, with its own output."""
    os.setsid()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.dup2(descriptors[0], 1)
    os.dup2(descriptors[1], 2)
    for descriptor in descriptors:
        os.close(descriptor)


if __name__ == "__main__":
    import fastload.dataloader  # noqa: F401  (fastload itself imports what is used, when it is)
    import tests.faults.cases  # noqa: F401  (fills the table)
    from tests.faults import trial

    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
    trial.run(*sys.argv[1:])
