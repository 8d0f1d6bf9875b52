"""The threads and the event loop in which one process loads several samples at a time.

Runs in: worker (consumer with ``num_workers=0``).
Owns: the threads and the loop; made when they are first needed, and anew in the child of a fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final

_NAME: Final = "fastload-samples"

_PATIENCE_S: Final = 1.0
"""How long closing waits for samples that threads are loading, and for cancelled coroutines."""


class Crew:
    """What loads samples in one process: a worker, or that of a loader without workers.

    It outlives epochs, because what a dataset keeps open may belong to the event loop. Threads and
    loop end by themselves when nobody refers to the crew any more. At the end of the program a
    thread is waited for until it has ended its sample; the loop is not.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._threads: dict[int, ThreadPoolExecutor] = {}
        self._loop: LoopThread | None = None

    def threads(self, most: int) -> ThreadPoolExecutor:
        """So many threads."""
        self._check_owner()
        with self._lock:
            if most not in self._threads:
                self._threads[most] = ThreadPoolExecutor(most, thread_name_prefix=_NAME)
            return self._threads[most]

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, which runs in a thread of its own."""
        self._check_owner()
        with self._lock:
            if self._loop is None:
                self._loop = LoopThread()
            return self._loop.loop

    def close(self) -> None:
        """End threads and loop; samples that hang in a thread are waited for only a second."""
        if self._owner == os.getpid():
            for executor in self._threads.values():
                _shut_down(executor)
            if self._loop is not None:
                self._loop.close()
            self._begin()

    def _check_owner(self) -> None:
        if self._owner != os.getpid():  # threads do not live on in the child of a fork
            self._begin()


def _shut_down(executor: ThreadPoolExecutor) -> None:
    """End an executor's threads: nobody calls the dataset any more when this returns in time."""
    executor.shutdown(wait=False)
    waits = threading.Thread(target=executor.shutdown, name="fastload-close", daemon=True)
    with contextlib.suppress(RuntimeError):  # the program ends: no thread can be started
        waits.start()
        waits.join(_PATIENCE_S)


class LoopThread:
    """An event loop that runs in a thread until nobody refers to this object."""

    def __init__(self) -> None:
        began: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=_run, args=(began,), name=_NAME, daemon=True)
        self._thread.start()
        first = began.get()
        if isinstance(first, BaseException):
            raise first
        self.loop: asyncio.AbstractEventLoop
        self.loop, told = first
        self._end = weakref.finalize(self, _tell, self.loop, told, os.getpid())

    def close(self) -> None:
        """End the loop; what is awaited in it is cancelled."""
        self._end()
        self._thread.join(_PATIENCE_S)


def _run(began: SimpleQueue[Any]) -> None:
    try:
        asyncio.run(_serve(began))
    except BaseException as error:  # noqa: BLE001  (there may be no descriptors for a loop)
        began.put(error)


async def _serve(began: SimpleQueue[Any]) -> None:
    told = asyncio.Event()
    began.put((asyncio.get_running_loop(), told))
    await told.wait()


def _tell(loop: asyncio.AbstractEventLoop, told: asyncio.Event, owner: int) -> None:
    if owner == os.getpid():
        with contextlib.suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(told.set)
