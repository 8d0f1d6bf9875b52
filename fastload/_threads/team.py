"""The threads of a loader, in the place of a pool of worker processes.

Runs in: consumer.
Takes: tasks of one or several runs.
Gives: what became of each, in the queues of its run.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterable, Sequence

from fastload._loading.dataset_state import DatasetState
from fastload._memory.slots import Slots
from fastload._pool.deaths import Death
from fastload._pool.pool import PoolClosedError
from fastload._pool.sharing import SharedTasks
from fastload._pool.tasks import InFlight, Lost, Mailbox
from fastload._system.interruptions import Guard
from fastload._system.warn import warn_program
from fastload._threads.copies import ThreadParts
from fastload._threads.thread_loop import SharedRun, ThreadLoop, ThreadSpec, running
from fastload._wire.messages import SeededBegin
from fastload.errors import show

LONGEST_CLOSE_S = 2.0
"""How long ``close``, and the end of the program, wait for threads to return from user code."""


class ThreadHandle:
    """One worker as the training loop sees it."""

    def __init__(self, loop: ThreadLoop) -> None:
        self.loop = loop
        self.process = loop.thread
        self.is_dismissed = False

    def stack(self) -> str:
        """Where the thread is now; empty if it has ended."""
        frame = sys._current_frames().get(self.loop.thread.ident or 0)
        return "" if frame is None else "".join(traceback.format_stack(frame))


class ThreadTeam:
    """Threads and the runs they work for; see ``WorkerPool`` for what is not explained here.

    Guarantees:
        - nothing here is referred to by a thread: a team that nobody holds is gone, and its threads
          leave when the calls that run return;
        - ``close`` waits ``LONGEST_CLOSE_S`` at most, and says which threads it leaves behind;
        - what a thread gives is in the queue of its run before the thread begins anything else.
    """

    def __init__(self, spec: ThreadSpec, parts: Sequence[ThreadParts]) -> None:
        self.lock = threading.RLock()
        self.owner = os.getpid()
        self.guard = Guard()
        self.dead: dict[int, Death] = {}  # a crash takes the program with it
        self.lost: dict[int, Lost] = {}
        self.restarts: list[Death] = []
        self.slots: Slots | None = None
        self.shared: SharedTasks | None = None
        self.size = len(parts)
        self.is_growing = False
        self.is_closed = False
        self._last_run = -1
        self._runs: dict[int, SharedRun] = {}
        self._is_seeded = spec.is_seeded
        loops = [ThreadLoop(spec, number, each) for number, each in enumerate(parts)]
        self.workers = [ThreadHandle(loop) for loop in loops]
        weakref.finalize(self, _end, loops, self.owner).atexit = False
        try:
            for loop in loops:
                loop.start()
        except BaseException:
            _end(loops, self.owner)
            raise

    @property
    def is_open(self) -> bool:
        """Whether the threads have not been told to leave."""
        return not self.is_closed

    @property
    def is_usable(self) -> bool:
        """Whether another run can begin: open, whole, and in the process that made it."""
        return not (self.is_closed or self.guard.depth) and self.owner == os.getpid()

    @property
    def is_fresh(self) -> bool:
        """Whether no run has begun yet."""
        return self._last_run < 0

    def grow(self) -> None:
        """All threads are there from the beginning."""

    complete = grow

    def check_open(self) -> None:
        """Raise ``PoolClosedError`` if the threads were told to leave."""
        if self.is_closed:
            raise PoolClosedError

    def begin(
        self,
        run: object,
        mailbox: Mailbox,  # noqa: ARG002  (results lie in the queues of the run)
        shared_seed: int | None,
        dataset_state: DatasetState | None = None,
        seeded: SeededBegin | None = None,
    ) -> int:
        """Start a run; returns its number. It ends when nobody refers to ``run`` any more."""
        with self.guard:
            self.check_open()
            looks = seeded is not None and self.is_fresh
            self._last_run += 1
            number = self._last_run
            self._runs[number] = SharedRun(
                len(self.workers), shared_seed, dataset_state, seeded, looks=looks
            )
            weakref.finalize(run, _drop, self._runs, number).atexit = False
        return number

    def run_of(self, number: int) -> SharedRun:
        """What the threads know of a run."""
        return self._runs[number]

    def flying(self, run: int) -> dict[int, InFlight]:
        """The tasks of a run that were sent and not delivered yet, by sequence number."""
        flying = self._runs[run].flying.copy()
        return {sequence: InFlight(*task) for sequence, task in flying.items()}

    def dismiss(self, worker_ids: Iterable[int]) -> None:
        """These threads leave behind the tasks that they have."""
        for worker_id in worker_ids:
            worker = self.workers[worker_id]
            if not worker.is_dismissed:
                worker.is_dismissed = True
                worker.loop.inbox.put(None)

    def sending_together(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to do: a thread is told of a task without a system call."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """End the threads; safe to call again, from any thread, and in a forked child.

        A thread can't be ended from outside. One whose call does not return is left behind: it ends
        when that call does, or with the program, and a warning says where it is.
        """
        if self.owner != os.getpid():
            return
        is_first, self.is_closed = not self.is_closed, True
        loops = [worker.loop for worker in self.workers]
        _end(loops, self.owner)
        for shared in tuple(self._runs.values()):
            shared.is_dropped = True
            shared.wake()
        _join(loops)
        left = [worker for worker in self.workers if worker.loop.is_alive]
        if left and is_first:
            self._warn_of(left)

    def _warn_of(self, left: list[ThreadHandle]) -> None:
        names = "\n".join(f"{self._task_of(worker)}\n{worker.stack()}" for worker in left)
        warn_program(
            f"after {LONGEST_CLOSE_S} s these worker threads had not returned from what they were "
            f"doing, and a thread can't be ended from outside; each ends when its call returns, or "
            f"with the program:\n{names}"
        )

    def _task_of(self, worker: ThreadHandle) -> str:
        number = self.workers.index(worker)
        for shared in tuple(self._runs.values()):
            for sequence, (worker_id, indices, _) in sorted(shared.flying.copy().items()):
                if worker_id == number:
                    at = show(indices)
                    return f"worker {number} (batch {sequence}, dataset indices {at}) at:"
        return f"worker {number} at:"


def _end(loops: list[ThreadLoop], owner: int) -> None:
    """Tell threads to leave. In a forked child there are none."""
    if owner == os.getpid():
        for loop in loops:
            loop.end()


def _drop(runs: dict[int, SharedRun], number: int) -> None:
    """Nobody wants the rest of a run: what waits in queues is passed over."""
    runs.pop(number).is_dropped = True


def _join(loops: Iterable[ThreadLoop]) -> None:
    """Wait for threads together, but not for the one that calls."""
    deadline_s = time.monotonic() + LONGEST_CLOSE_S
    for loop in loops:
        if loop.thread is not threading.current_thread() and loop.is_alive:
            loop.thread.join(max(0.0, deadline_s - time.monotonic()))


@atexit.register
def _end_all() -> None:
    """Before the interpreter goes: a daemonic thread that it meets in C code later may abort it."""
    left = running.copy()
    for loop in left:
        loop.end()
    _join(left)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=running.clear)
