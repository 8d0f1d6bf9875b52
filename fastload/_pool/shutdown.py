"""End workers: ask, then terminate, then kill, all of them in parallel.

Runs in: consumer.
"""

from __future__ import annotations

import os
import selectors
import sys
import time
from collections.abc import Callable
from multiprocessing import connection, util
from typing import NoReturn

from fastload._memory import reuse
from fastload._memory.forks import workers_gone
from fastload._memory.slots import Slots
from fastload._pool.handle import WorkerHandle
from fastload._pool.shared_ends import SharedEnds
from fastload._pool.start import Closers, close_all
from fastload._system import descriptors, pipes
from fastload._system.descriptors import CLOSED
from fastload._system.interruptions import own_suppressed
from fastload._wire.messages import Stop, encode
from fastload._wire.task_queue import TaskQueue

BEFORE_MULTIPROCESSING = 100
"""Exit priority: multiprocessing's own exit would wait for live children without limit."""

ONE = (1).to_bytes(8, sys.byteorder)
"""What an eventfd counts up by; a pipe takes any bytes."""

GRACE_S = 0.5
"""How long workers may take to leave when asked, then when terminated, then when killed."""


class Waker:
    """Makes a thread that waits in the pool's selector return.

    Attributes:
        is_over: The workers are being ended, or have been.
        read: The descriptor to wait for.
    """

    def __init__(self) -> None:
        self.is_over = False
        if hasattr(os, "eventfd"):
            self.read = self._write = descriptors.own(os.eventfd(0))
        else:
            self.read, self._write = map(descriptors.own, os.pipe())

    def wake(self) -> None:
        """Wake whoever waits."""
        with own_suppressed(OSError):
            pipes.write(self._write, ONE)

    def close(self) -> None:
        """Close what it has open."""
        ends, self.read, self._write = {self.read, self._write}, CLOSED, CLOSED
        for descriptor in ends:
            descriptors.close(descriptor)


class Shutdown:
    """The end of a pool's workers, which comes once: when called, or when the program exits.

    Whatever interrupts it, a second Ctrl-C for one, no worker outlives it; and where an exception
    of a signal handler keeps it from beginning, it is still to come.
    """

    def __init__(
        self,
        workers: list[WorkerHandle],
        selector: selectors.BaseSelector,
        waker: Waker,
        slots: Slots | None,
        closers: Closers,
        shared: SharedEnds,
        queue: TaskQueue | None,
    ) -> None:
        self._owner = os.getpid()
        self._workers = workers
        self._selector = selector
        self._waker = waker
        at_exit = util.Finalize(None, self, exitpriority=BEFORE_MULTIPROCESSING)
        self._steps: list[Callable[[], object]] = [
            shared.cut_off,
            lambda: _each(WorkerHandle.cut_off, workers),
            lambda: _put_away(slots, workers),
            lambda: _each(WorkerHandle.release, workers),
            shared.close,
            *([] if queue is None else [queue.close]),
            waker.close,
            lambda: workers_gone(shared),
            lambda: close_all(closers),
            at_exit.cancel,
        ]
        """What is still to be done when the workers were given their time."""

    def __call__(self) -> None:
        """Ask all to leave, then terminate, then kill: in parallel, under one deadline."""
        if not self._steps or self._owner != os.getpid():
            return
        self._waker.is_over = True
        try:
            self._selector.close()
            for worker in self._workers:
                worker.hang_up(encode(Stop()))
            alive = _still_alive(self._workers)
            for name in ("terminate", "kill"):
                for worker in alive:
                    getattr(worker.process, name)()
                alive = _still_alive(alive)
        finally:
            _run_all_steps(self._steps)


def _each(step: Callable[[WorkerHandle], None], workers: list[WorkerHandle]) -> None:
    for worker in workers:
        step(worker)


def _put_away(slots: Slots | None, workers: list[WorkerHandle]) -> None:
    is_last = not _still_alive(workers)
    if slots is None:
        return
    if is_last:
        reuse.put(slots)
    else:
        slots.park()


MOST_INTERRUPTIONS = 100


def _run_all_steps(steps: list[Callable[[], object]]) -> None:
    """Take every step off the list; one that an exception from outside hits is taken again.

    Raises:
        BaseException: The last exception that was raised meanwhile.
    """
    interruption: BaseException | None = None
    for _ in range(MOST_INTERRUPTIONS):
        try:
            while steps:
                steps[0]()
                del steps[0]
            break
        except BaseException as error:  # noqa: BLE001  (it is raised below)
            interruption = error
    if interruption is not None:
        raise interruption


def block_for_ever() -> NoReturn:
    """Block for ever: the interpreter is shutting down; this daemon thread must not return."""
    while True:
        time.sleep(3600)


def _still_alive(workers: list[WorkerHandle]) -> list[WorkerHandle]:
    """Reap the workers that end within the grace period; return the others."""
    deadline_s = time.monotonic() + GRACE_S
    alive = [worker for worker in workers if worker.ended != CLOSED]
    while alive and (remaining_s := deadline_s - time.monotonic()) > 0:
        ended = connection.wait([worker.ended for worker in alive], remaining_s)
        for worker in alive:
            if worker.ended in ended:
                _ = worker.exitcode
        alive = [worker for worker in alive if worker.ended not in ended]
    return alive
