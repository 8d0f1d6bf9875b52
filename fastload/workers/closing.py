"""End workers: ask, then terminate, then kill, all of them in parallel.

Runs in: consumer.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable
from multiprocessing import connection
from typing import NoReturn

from fastload import descriptors
from fastload.descriptors import CLOSED
from fastload.memory import shelf
from fastload.memory.forks import workers_gone
from fastload.memory.slots import Slots
from fastload.messages import Stop, encode
from fastload.workers.start import Closers, Worker, close_all

GRACE_S = 0.5
"""How long workers may take to leave when asked, then when terminated, then when killed."""


class Wake:
    """Makes a thread that waits in the pool's selector return.

    Attributes:
        is_over: The workers are being ended, or have been.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.read, self._write = map(descriptors.own, os.pipe())

    def up(self) -> None:
        """Wake whoever waits."""
        with contextlib.suppress(OSError):
            os.write(self._write, b"!")

    def close(self) -> None:
        """Close both ends."""
        read, write, self.read, self._write = self.read, self._write, CLOSED, CLOSED
        descriptors.close(read)
        descriptors.close(write)


def end_workers(
    workers: list[Worker],
    selector: selectors.BaseSelector,
    wake: Wake,
    slots: Slots | None,
    closers: Closers,
    watcher: object,
) -> None:
    """Ask all workers to leave, then terminate, then kill: in parallel, under one deadline.

    Whatever interrupts this, a second Ctrl-C for one, no worker outlives it.
    """
    wake.is_over = True
    try:
        selector.close()
        for worker in workers:
            worker.hang_up(encode(Stop()))
        alive = _still_alive(workers)
        for name in ("terminate", "kill"):
            for worker in alive:
                getattr(worker.process, name)()
            alive = _still_alive(alive)
    finally:
        _insist(
            [
                *(worker.cut_off for worker in workers),
                lambda: _put_away(slots, workers),
                *(worker.release for worker in workers),
                wake.close,
                lambda: workers_gone(watcher),
                lambda: close_all(closers),
            ]
        )


def _put_away(slots: Slots | None, workers: list[Worker]) -> None:
    is_last = not _still_alive(workers)
    if slots is None:
        return
    if is_last:
        shelf.put(slots)
    else:
        slots.rest()


MOST_INTERRUPTIONS = 100


def _insist(steps: list[Callable[[], object]]) -> None:
    """Take every step; one that an exception from outside hits is taken again.

    Raises:
        BaseException: The last exception that was raised meanwhile.
    """
    interruption: BaseException | None = None
    remaining = list(reversed(steps))
    for _ in range(MOST_INTERRUPTIONS):
        try:
            while remaining:
                remaining[-1]()
                remaining.pop()
            break
        except BaseException as error:  # noqa: BLE001  (it is raised below)
            interruption = error
    if interruption is not None:
        raise interruption


def wait_for_the_end() -> NoReturn:
    """The interpreter is exiting around this daemon thread, which has nothing to report."""
    while True:
        time.sleep(3600)


def _still_alive(workers: list[Worker]) -> list[Worker]:
    """Those that have not ended within the grace period; the others are reaped."""
    deadline_s = time.monotonic() + GRACE_S
    alive = list(workers)
    while alive and (remaining_s := deadline_s - time.monotonic()) > 0:
        ended = connection.wait([worker.ended for worker in alive], remaining_s)
        for worker in alive:
            if worker.ended in ended:
                _ = worker.exitcode
        alive = [worker for worker in alive if worker.ended not in ended]
    return alive
