"""Which descriptors of its workers a pool waits for, and what it means that one is ready.

Runs in: consumer.
"""

from __future__ import annotations

import contextlib
import selectors
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from fastload._memory.granted import ANYBODY
from fastload._pool.handle import WorkerHandle

REPORTED, DIED, WRITABLE, WOKEN = "reported", "died", "writable", "woken"
"""What may happen: a worker sent something; it ended; there is room again where something could not
be sent; a thread wants the waiting one to look up.
"""


class Event(NamedTuple):
    """Something that has happened, and to which worker; ANYBODY stands for the queue of all."""

    what: str
    worker_id: int


class Sender(Protocol):
    """What keeps what does not fit into a pipe or a socket now.

    Attributes:
        descriptor: To be waited for while something is unsent.
        unsent: What is kept.
    """

    @property
    def descriptor(self) -> int:
        """The descriptor."""

    @property
    def unsent(self) -> Any:
        """What is kept."""


class Watches:
    """The descriptors of one pool.

    Attributes:
        selector: Waits for all of them. What is registered in it is plain data: a bound method
            would keep the pool alive through its own finalizer.
        full: The workers, or ANYBODY, to whom something could not be sent yet.
    """

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.full: set[int] = set()

    def add(self, descriptor: Any, what: str, worker_id: int = ANYBODY) -> None:
        """Wait for a descriptor too."""
        events = selectors.EVENT_WRITE if what is WRITABLE else selectors.EVENT_READ
        self.selector.register(descriptor, events, Event(what, worker_id))

    def add_worker(self, worker_id: int, worker: WorkerHandle) -> None:
        """Wait for what a worker reports, and for its end."""
        self.add(worker.reports.descriptor, REPORTED, worker_id)
        self.add(worker.ended, DIED, worker_id)

    def remove(self, descriptor: Any) -> None:
        """Do not wait for a descriptor any more."""
        with contextlib.suppress(KeyError):  # two events of one call may both lead here
            self.selector.unregister(descriptor)

    def remove_worker(self, worker_id: int, worker: WorkerHandle) -> None:
        """Do not wait for a worker that has ended."""
        self.remove(worker.reports.descriptor)
        if worker_id in self.full:
            self.full.discard(worker_id)
            self.remove(worker.orders.descriptor)

    def follow(self, worker_id: int, sender: Sender) -> None:
        """Wait for room exactly while something is unsent."""
        if bool(sender.unsent) != (worker_id in self.full):
            if sender.unsent:
                self.full.add(worker_id)
                self.add(sender.descriptor, WRITABLE, worker_id)
            else:
                self.full.discard(worker_id)
                self.remove(sender.descriptor)

    def wait(self, timeout_s: float | None, is_open: Callable[[], bool]) -> list[Event]:
        """Wait until something happens; nothing has if the pool is closed meanwhile."""
        try:
            return [key.data for key, _ in self.selector.select(timeout_s)]
        except (OSError, ValueError):
            if is_open():
                raise
            return []
