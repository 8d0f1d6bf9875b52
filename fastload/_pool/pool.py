"""A pool of workers: sends them orders, sees their reports and their deaths, ends them.

Runs in: consumer.
Takes: orders of one or several runs, and a mailbox from each.
Gives: into each mailbox the run's reports, in the order in which each worker made them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from fastload._loading.dataset_state import DatasetState
from fastload._memory.granted import ANYBODY
from fastload._memory.slots import Slots
from fastload._memory.view import BatchTemplate
from fastload._pool.deaths import Death, examine
from fastload._pool.handle import WorkerHandle
from fastload._pool.runs import Runs
from fastload._pool.shared_ends import SharedEnds
from fastload._pool.sharing import SharedTasks, with_indices
from fastload._pool.shutdown import Shutdown, Waker, block_for_ever
from fastload._pool.start import (
    Closers,
    Starter,
    close_all,
    opening_files_for,
    signals_deferred,
)
from fastload._pool.tasks import InFlight, Lost, Mailbox, Tasks
from fastload._pool.watches import DIED, REPORTED, WOKEN, Event, Watches
from fastload._system.cgroups import oom_kills
from fastload._system.interruptions import Guard, is_from_outside
from fastload._wire.indices import pack
from fastload._wire.messages import (
    Cancel,
    Cancelled,
    Ended,
    Loaded,
    SeededBegin,
    Stop,
    Unfit,
    decode,
    encode,
    encode_task,
)
from fastload._wire.task_queue import SharedTask, TaskQueue
from fastload._worker.job import WorkerSpec

LONGEST_HOLD_S = 0.0005
"""How long messages may wait to be sent together, as an epoch begins.

To draw and pack the first tasks takes a few microseconds each where the sampler is one of torch's,
and each write that can be saved wakes a worker, which takes longer. A sampler that is slower than
this would keep workers idle, which costs more than their waking up again.
"""

FIRST_WAIT_S = 0.01
"""How long the first worker has for its first batch before the second is started beside it."""


class PoolClosedError(RuntimeError):
    """Somebody needed workers that were ended; private, users see a RuntimeError."""

    def __init__(self) -> None:
        super().__init__(
            "the workers of this iterator were shut down; call iter(loader) for a new one"
        )


class Pool:
    """Workers, the slots they write to and the runs they work for.

    Attributes:
        workers: Those that have been started, by number.
        size: How many workers there are to be.
        is_growing: Whether workers are still to be started.
        dead: By worker: how it ended, if it was not started again; ``lost``: what it had to do.
        shared: Tasks that go to whoever is idle; None if each task is a certain worker's.

    Guarantees:
        - no call waits for a worker but ``pump``, for as long as it is told, and ``close``;
        - ``close`` ends every worker within about two seconds, whatever it does;
        - a slot is free again once its batch was dropped, its task failed or was cancelled;
        - an exception from outside (a signal handler) that hits a change half-way leaves ``guard``
          set: the pool must not be used any more;
        - a ``close`` from within a call (by a signal handler, by a sampler) leaves that call what
          it has in hand; whatever the call raises then means that the pool was closed.
    """

    def __init__(
        self,
        job: WorkerSpec,
        slots: Slots | None,
        context: Any,
        most_restarts: int = 0,
        *,
        shares_tasks: bool = False,
        starts_all: bool = False,
    ) -> None:
        """Start the first worker, or all; the others are started by ``grow``.

        To be called ``signals_deferred``: until the pool is there, nobody ends its workers.
        """
        self.lock = threading.RLock()
        self.owner = os.getpid()
        self.slots = slots
        self.workers: list[WorkerHandle] = []
        self.size = job.workers
        self.is_growing = True
        self.dead: dict[int, Death] = {}
        self.lost: dict[int, Lost] = {}
        self.restarts: list[Death] = []
        self.tasks = Tasks(slots)
        self.guard = Guard()
        self._is_closing = False
        self._dismissed: set[int] = set()
        self._held_back_until_s = 0.0
        self._runs = Runs(job.dataset)
        self._watches = Watches()
        self._is_stream = job.iterable
        self._context = context
        self._restarts_left = most_restarts
        self._kills_before = oom_kills()
        self._waker = Waker()
        shared = SharedEnds()
        closers: Closers = []
        queue = _open_queue(job.workers, slots, self._waker) if shares_tasks else None
        self.shared = None if queue is None else SharedTasks(queue, self.tasks)
        self._end = Shutdown(
            self.workers, self._watches.selector, self._waker, slots, closers, shared, queue
        )
        weakref.finalize(self, self._end).atexit = False  # at exit it ends by itself
        try:
            self._watches.add(self._waker.read, WOKEN)
            arena = None if slots is None else slots.arena
            self._starter = Starter(job, arena, context, shared, closers, queue)
            self._closers = closers
            if slots is not None:
                slots.is_copying = True
            for _ in range(job.workers if starts_all else 1):
                self._add_worker()
        except BaseException:
            self.close()
            raise

    def grow(self) -> None:
        """Start the next worker, and give it what it has to do; it begins at once.

        Raises:
            OSError: The system refuses another process or pipe.
            Exception: Under spawn or forkserver, something could not be pickled.
        """
        worker_id = len(self.workers)
        with self.guard:
            with signals_deferred(self._context), opening_files_for(self.size - worker_id):
                self._add_worker()
            runs = self._runs.begun
            self._brief(worker_id, {run: self.tasks.tasks_of(run, worker_id) for run in runs})

    def complete(self) -> None:
        """Start all workers that are still missing, unless the pool is closed meanwhile."""
        while self.is_growing and self.is_open:
            self.grow()

    def _add_worker(self) -> None:
        worker_id = len(self.workers)
        self.workers.append(self._starter.start(worker_id))
        self._watches.add_worker(worker_id, self.workers[worker_id])
        if len(self.workers) == self.size:
            self.is_growing = False
            if self.slots is not None:
                self.slots.is_copying = False
            if not self._restarts_left:
                close_all(self._closers)

    def _brief(
        self,
        worker_id: int,
        tasks: dict[int, list[tuple[int, InFlight]]],
        shared: Iterable[tuple[SharedTask, InFlight]] = (),
    ) -> None:
        """Tell a new worker which runs there are, and which tasks are its own.

        Args:
            worker_id: The worker.
            tasks: By run: its tasks, by number.
            shared: Shared tasks that it is to begin with.
        """
        for number in sorted(tasks):
            self._send(worker_id, encode(self._runs.begin_for(number, worker_id)))
            for sequence, task in tasks[number]:
                self._send(worker_id, encode_task(number, sequence, pack(task.indices)))
        if self.shared is not None and self._runs.newest not in tasks:
            # Tasks of runs that are over may still lie in the queue: none of them is to come.
            self._send(worker_id, encode(Cancel(self._runs.newest, is_over=True)))
        for one, flying in shared:
            self._hand(worker_id, with_indices(one, flying))
        if worker_id in self._dismissed:
            self._send(worker_id, encode(Stop()))

    @property
    def is_open(self) -> bool:
        """Whether the workers have not been ended."""
        return not (self._is_closing or self._waker.is_over)

    @property
    def is_usable(self) -> bool:
        """Whether another run can begin: open, whole, and in the process that made it."""
        is_whole = self.is_open and not self.dead and not self.guard.depth
        return is_whole and self.owner == os.getpid()

    def check_open(self) -> None:
        """To be called inside the guard, before anything of the pool is touched.

        Raises:
            PoolClosedError: The workers were ended; their slots may be other workers' by now.
        """
        if self._is_closing or self._waker.is_over:
            raise PoolClosedError

    def begin(
        self,
        run: object,
        mailbox: Mailbox,
        shared_seed: int | None,
        dataset_state: DatasetState | None = None,
        seeded: SeededBegin | None = None,
    ) -> int:
        """Start a run on every worker; returns its number.

        The run ends when nobody refers to ``run`` any more; the pool does not. ``dataset_state``
        is what the dataset goes on from, in each worker; ``seeded`` says where a seeded stream
        begins.
        """
        self._cancel_dropped_runs()
        with self.guard:
            self.check_open()
            begin = self._runs.begin(run, shared_seed, dataset_state, seeded)
            self.tasks.open(begin.run, mailbox)
            for worker_id in range(len(self.workers)):
                self._send(worker_id, encode(begin))
        return begin.run

    def assign(self, run: int, sequence: int, worker_id: int, indices: Any, packed: bytes) -> None:
        """Send a task, inside the guard; ``packed`` is ``indices``, for the worker."""
        self.tasks.add(run, sequence, worker_id, indices)
        if worker_id < len(self.workers):  # another is told when it is started
            self._send(worker_id, encode_task(run, sequence, packed))

    def share(
        self,
        run: int,
        sequence: int,
        indices: Any,
        packed: bytes,
        parts: int = 1,
        *,
        is_next: bool = True,
    ) -> bool:
        """Send a task to whoever is idle, inside the guard; False: there is no room for it yet.

        Args:
            run: Its run.
            sequence: Its number in the run.
            indices: What the sampler yielded.
            packed: The same, packed.
            parts: Into how many parts the batch is cut, for as many workers.
            is_next: Whether nothing else of the run is on its way. Then there is room: without a
                slot the batch goes by pipe.
        """
        assert self.shared is not None
        task = self.tasks.share(run, sequence, indices, parts, is_next=is_next)
        if task is None:
            return False
        self._put(run, sequence, task, packed)
        return True

    def _put(self, run: int, sequence: int, task: InFlight, packed: bytes) -> None:
        assert self.shared is not None
        for too_long in self.shared.put(run, sequence, task, packed):
            self._hand(sequence % len(self.workers), too_long)
        self._watches.follow(ANYBODY, self.shared.queue)

    def _hand(self, worker_id: int, task: SharedTask) -> None:
        """Send a shared task through the pipe of one worker."""
        assert self.shared is not None
        self.shared.note_handed(worker_id, task)
        self._send(worker_id, encode(task))

    def flying(self, run: int) -> dict[int, InFlight]:
        """The tasks of a run that were sent and have no report yet, by sequence number."""
        return self.tasks.flying(run)

    def dismiss(self, worker_ids: Iterable[int]) -> None:
        """These workers get no more tasks: each may leave as soon as it has done those it has."""
        with self.guard:
            for worker_id in worker_ids:
                self._dismissed.add(worker_id)
                if worker_id < len(self.workers):
                    self._send(worker_id, encode(Stop()))

    def pump(self, timeout_s: float | None) -> bool:
        """Wait for something to happen and put reports into mailboxes; whether anything did."""
        self._cancel_dropped_runs()
        events = self._wait_for_the_first() if self.is_growing else []
        if has_grown := self.is_growing and not events:
            self.grow()
        if not events:
            events = self._watches.wait(0 if has_grown else timeout_s, lambda: self.is_open)
        if not self.is_open:
            if not self._is_closing:
                block_for_ever()
            return True
        with self.guard:
            for what, worker_id in events:
                if what is REPORTED:
                    self._take_reports(worker_id)
                elif what is DIED:
                    self._mark_dead(worker_id)
                elif what is not WOKEN:
                    self._send_more(worker_id)
        return bool(events) or has_grown

    def _wait_for_the_first(self) -> list[Event]:
        """Wait a moment for what the first worker loads, before others are started beside it.

        To start a worker takes a few milliseconds, and makes those that run slower meanwhile.
        """
        is_first = len(self.workers) == 1
        return self._watches.wait(FIRST_WAIT_S if is_first else 0, lambda: self.is_open)

    def _send_more(self, worker_id: int) -> None:
        """There is room again in a worker's pipe, or in the queue of all."""
        if worker_id == ANYBODY:
            assert self.shared is not None
            self.shared.queue.flush()
            self._watches.follow(ANYBODY, self.shared.queue)
        else:
            orders = self.workers[worker_id].orders
            orders.flush()
            self._watches.follow(worker_id, orders)

    def close(self) -> None:
        """End the workers; safe to call again, from any thread, and in a forked child."""
        if self.owner != os.getpid():
            return
        self._is_closing = True
        self._waker.wake()  # a thread that waits in `pump` holds the lock
        with self.lock:
            if self.guard.depth and self.slots is not None:
                self.slots.abandon()
            self.tasks.close()
            self._end()

    @contextlib.contextmanager
    def sending_together(self) -> Iterator[None]:
        """What is sent to a worker in the block goes in one write, which wakes it once.

        Unless that takes long: a sampler may be slow.
        """
        self._held_back_until_s = time.monotonic() + LONGEST_HOLD_S
        try:
            yield
        finally:
            self._held_back_until_s = 0.0
        with self.guard:
            for worker_id, worker in enumerate(self.workers):
                worker.orders.flush()
                self._watches.follow(worker_id, worker.orders)

    def _send(self, worker_id: int, frame: bytes) -> None:
        orders = self.workers[worker_id].orders
        if self._held_back_until_s and time.monotonic() < self._held_back_until_s:
            orders.put(frame)
            return
        orders.send(frame)
        if orders.unsent or self._watches.full:
            self._watches.follow(worker_id, orders)

    def _take_reports(self, worker_id: int) -> None:
        receiver = self.workers[worker_id].reports
        for frame in receiver.receive():
            self._route(worker_id, decode(frame))
        if receiver.is_closed:
            self._watches.remove(receiver.descriptor)

    def _route(self, worker_id: int, report: Any) -> None:
        template = None
        if type(report) is Loaded:
            worker = self.workers[worker_id]
            if report.layout is not None and report.skeleton is not None:
                worker.template = BatchTemplate(report.layout, report.skeleton, worker.template)
            template = worker.template
            if report.dataset_state is not None:
                self._runs.note_state(report.run, worker_id, report.dataset_state)
        elif type(report) is Cancelled:
            self.tasks.on_cancelled(report, worker_id)
            return
        elif type(report) is Unfit:
            self._send_whole(report)
            return
        elif type(report) is Ended:
            self._runs.note_end(report.run, worker_id)
        self.tasks.complete(worker_id, report, template)

    def _send_whole(self, report: Unfit) -> None:
        task = self.tasks.as_whole(report.run, report.sequence)
        if task is not None:
            self._put(report.run, report.sequence, task, pack(task.indices))

    def _mark_dead(self, worker_id: int) -> None:
        """A worker has ended; what it had sent before is taken first."""
        worker = self.workers[worker_id]
        self._watches.remove(worker.ended)
        worker.end_orphan()
        self._take_reports(worker_id)
        self._watches.remove_worker(worker_id, worker)
        if self.slots is not None:
            self.slots.revoke(worker_id)
        taken = [] if self.shared is None else self.shared.lost_with(worker_id)
        if worker_id in self._dismissed and not (taken or self.tasks.has_flying(worker_id)):
            return
        lost = self.tasks.forget(worker_id)
        death = examine(worker_id, worker, self._kills_before)
        if self._restarts_left == 0 or not self._restart(death, lost, taken):
            for task, flying in taken:
                lost[task.run].append((task.sequence, flying))
            self.dead[worker_id], self.lost[worker_id] = death, lost

    def _restart(self, death: Death, lost: Lost, taken: list[tuple[SharedTask, InFlight]]) -> bool:
        """Put a new worker in a dead one's place and give it the tasks again."""
        worker_id = death.worker_id
        runs = self._runs.of_restarted(worker_id)
        if self._is_stream and not self._runs.can_resume(runs, worker_id):
            return False
        with signals_deferred(self._context):
            try:
                worker = self._starter.start(worker_id)
            except OSError as error:
                if is_from_outside(error):
                    raise
                return False  # no more processes or descriptors to be had: the death stays one
            self.workers[worker_id].hang_up(b"")
            self.workers[worker_id].release()
            self.workers[worker_id] = worker
            self._watches.add_worker(worker_id, worker)
        self._restarts_left -= 1
        self.restarts.append(death)
        for number in runs:
            for sequence, task in lost.get(number, ()):
                self.tasks.add(number, sequence, worker_id, task.indices)
        self._brief(worker_id, {number: lost.get(number, []) for number in runs}, taken)
        return True

    def _cancel_dropped_runs(self) -> None:
        """Free what nobody will ask for; a worker may still write until it says Cancelled."""
        dropped = self._runs.dropped
        if not dropped:
            return
        with self.guard:
            while dropped:
                number = dropped.pop()
                is_over = self.tasks.drop(number, len(self.workers), self.size)
                self._runs.forget(number, len(self.workers))
                for worker_id in range(len(self.workers)):
                    self._send(worker_id, encode(Cancel(number, is_over)))


def _open_queue(workers: int, slots: Slots | None, waker: Waker) -> TaskQueue:
    """Open the queue of shared tasks, or close what else is open by then.

    Raises:
        OSError: No more files may be open, or there is no memory.
    """
    try:
        return TaskQueue(workers, 0 if slots is None else slots.arena.slots)
    except BaseException:
        waker.close()
        raise
