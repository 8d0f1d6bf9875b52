"""One worker as the consumer sees it: its process and the consumer's ends of its pipes.

Runs in: consumer.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from multiprocessing import connection
from typing import Any

from fastload._memory.view import BatchTemplate
from fastload._system import descriptors
from fastload._wire.channel import PatientSender, Receiver
from fastload._wire.stacks import StackFile

EXIT_CODE_WAIT_S = 0.3


class WorkerHandle:
    """One worker as the consumer sees it."""

    def __init__(
        self, process: Any, orders: int, reports: int, lifeline: int, stacks: StackFile | None
    ) -> None:
        self.process = process
        self.stacks = stacks
        self.orders = PatientSender(orders)
        self.reports = Receiver(reports)
        self.ended = _ended_descriptor(process)
        self.form: BatchTemplate | None = None
        self._lifeline = lifeline

    @property
    def exitcode(self) -> int | None:
        """As of a process that has ended; this also reaps it. None if somebody else has."""
        code: int | None = self.process.exitcode
        if code is None:  # under forkserver it comes through the server, a little later
            connection.wait([self.process.sentinel], EXIT_CODE_WAIT_S)
            code = self.process.exitcode
        self.process.join(0)  # so that multiprocessing forgets it
        if code is None and self.ended != self.process.sentinel:
            # Somebody else reaped it (SIGCHLD ignored, waitpid(-1)): join never hears of that.
            multiprocessing.process._children.discard(self.process)  # type: ignore[attr-defined]
        return code

    def stack(self) -> str:
        """Where the worker is now; empty if it can't be told. May take half a second."""
        return "" if self.stacks is None else self.stacks.ask(self.process.pid)

    def hang_up(self, farewell: bytes) -> None:
        """Ask the worker to leave, also if it waits in the middle of a message to us."""
        self.orders.send(farewell)
        self.orders.close()
        self.reports.close()

    def cut_off(self) -> None:
        """Close the lifeline, which kills a process that still runs."""
        lifeline, self._lifeline = self._lifeline, descriptors.CLOSED
        descriptors.close(lifeline)

    def release(self) -> None:
        """Close what is left of it here."""
        self.cut_off()
        self.orders.close()  # again, if asking it to leave was interrupted
        self.reports.close()
        if self.stacks is not None:
            self.stacks.close()
        ended, self.ended = self.ended, descriptors.CLOSED
        if ended != self.process.sentinel:
            descriptors.close(ended)


def _ended_descriptor(process: Any) -> int:
    """A descriptor that becomes readable when the process ends.

    multiprocessing's sentinel does so only when the process *and its children* have ended.
    """
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return descriptors.own(os.pidfd_open(process.pid))
    sentinel: int = process.sentinel
    return sentinel
