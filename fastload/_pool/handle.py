"""One worker as the consumer sees it: its process and the consumer's ends of its pipes.

Runs in: consumer.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import connection
from typing import Any

import psutil

from fastload._memory.view import BatchTemplate
from fastload._system import descriptors
from fastload._system.interruptions import own_suppressed
from fastload._wire.channel import PatientSender, Receiver
from fastload._wire.stacks import StackFile

EXIT_CODE_WAIT_S = 0.3

NO_CODE = 255
"""What multiprocessing says of a worker whose end the server of forkserver can't report."""


class WorkerHandle:
    """One worker as the consumer sees it."""

    def __init__(
        self,
        process: Any,
        method: str,
        orders: int,
        reports: int,
        lifeline: int,
        stacks: StackFile | None,
    ) -> None:
        """``lifeline`` is the write end of this worker's own, or CLOSED where all share one."""
        self.process = process
        self.stacks = stacks
        self.orders = PatientSender(orders)
        self.reports = Receiver(reports)
        self.ended = _ended_descriptor(process, method)
        self._has_server = method == "forkserver"
        self.template: BatchTemplate | None = None
        self._lifeline = lifeline

    @property
    def exitcode(self) -> int | None:
        """Exit code of a process that has ended, and reap it; None if somebody else has."""
        code: int | None = self.process.exitcode
        if code is None:  # under forkserver it comes through the server, a little later
            connection.wait([self.process.sentinel], EXIT_CODE_WAIT_S)
            code = self.process.exitcode
        self.process.join(0)  # so that multiprocessing forgets it
        if code is None and hasattr(os, "pidfd_open"):
            # Somebody else reaped it (SIGCHLD ignored, waitpid(-1)): join never hears of that.
            multiprocessing.process._children.discard(self.process)  # type: ignore[attr-defined]
        return code

    @property
    def has_lost_server(self) -> bool:
        """Whether it counts as ended because the server that had started it has; or it said 255."""
        return self._has_server and self.exitcode == NO_CODE

    def end_orphan(self) -> None:
        """Kill a worker that has lost its server: nobody would hear of its end any more."""
        if not self.has_lost_server:
            return
        with own_suppressed(psutil.Error):
            process = psutil.Process(self.process.pid)
            if any(
                "forkserver" in word for word in process.cmdline()
            ):  # or the number is another's
                process.kill()
                process.wait(EXIT_CODE_WAIT_S)

    def stack(self) -> str:
        """Ask the worker for its stack; empty if it does not answer. May take half a second."""
        return "" if self.stacks is None else self.stacks.ask(self.process.pid)

    def hang_up(self, farewell: bytes) -> None:
        """Ask the worker to leave, also if it waits in the middle of a message to us."""
        self.orders.send(farewell)
        self.orders.close()
        self.reports.close()

    def cut_off(self) -> None:
        """Close a lifeline of its own, which kills a process that still runs."""
        lifeline, self._lifeline = self._lifeline, descriptors.CLOSED
        descriptors.close(lifeline)

    def release(self) -> None:
        """Close every descriptor of the worker that is still open here."""
        self.cut_off()
        self.orders.close()  # again, if asking it to leave was interrupted
        self.reports.close()
        if self.stacks is not None:
            self.stacks.close()
        ended, self.ended = self.ended, descriptors.CLOSED
        if ended != self.process.sentinel:
            descriptors.close(ended)


def _ended_descriptor(process: Any, method: str) -> int:
    """A descriptor that becomes readable when the process ends: its sentinel.

    The pipe that multiprocessing uses for that becomes readable only when the process *and its
    children* have ended. So a pidfd takes the pipe's place, under the pipe's number: it costs no
    descriptor more and multiprocessing closes it as its own. The server of ``forkserver`` writes
    the exit code to the sentinel as soon as the process has ended, so there it stays as it is.
    """
    sentinel: int = process.sentinel
    if method == "forkserver" or not hasattr(os, "pidfd_open"):
        return sentinel
    with own_suppressed(OSError):
        pidfd = os.pidfd_open(process.pid)
        if method not in {"fork", "spawn"}:  # who knows what its sentinel carries
            return descriptors.own(pidfd)
        try:
            os.dup2(pidfd, sentinel, inheritable=False)
        finally:
            os.close(pidfd)
    return sentinel
