"""A pool of workers: sends them orders, sees their reports and their deaths, ends them.

Runs in: consumer.
Takes: orders of one or several runs, and a mailbox from each.
Gives: into each mailbox the run's reports, in the order in which each worker made them.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from fastload._loading.dataset_state import DatasetState, has_state
from fastload._memory.granted import ANYBODY
from fastload._memory.slots import Slots
from fastload._memory.view import BatchTemplate
from fastload._pool.deaths import Death, examine
from fastload._pool.handle import WorkerHandle
from fastload._pool.shared_ends import SharedEnds
from fastload._pool.sharing import SharedTasks, with_indices
from fastload._pool.shutdown import Shutdown, Waker, block_for_ever
from fastload._pool.start import Closers, Starter, close_all, signals_deferred
from fastload._pool.tasks import InFlight, Lost, Mailbox, Tasks
from fastload._system.cgroups import oom_kills
from fastload._system.interruptions import Guard
from fastload._wire.indices import pack
from fastload._wire.messages import (
    Begin,
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
from fastload.datasets.ranks_and_workers import epoch_of

_REPORTED, _DIED, _WRITABLE, _WOKEN = "reported", "died", "writable", "woken"

LONGEST_HOLD_S = 0.0005
"""How long messages may wait to be sent together, as an epoch begins.

To draw and pack the first tasks takes a few microseconds each where the sampler is one of torch's,
and each write that can be saved wakes a worker, which takes longer. A sampler that is slower than
this would keep workers idle, which costs more than their waking up again.
"""


class PoolClosedError(RuntimeError):
    """Somebody needed workers that were ended; private, users see a RuntimeError."""

    def __init__(self) -> None:
        super().__init__(
            "the workers of this iterator were shut down; call iter(loader) for a new one"
        )


class Pool:
    """Workers, the slots they write to and the runs they work for.

    Attributes:
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
    ) -> None:
        """To be called ``signals_deferred``: until the pool is there, nobody ends its workers."""
        self.lock = threading.RLock()
        self.owner = os.getpid()
        self.slots = slots
        self.workers: list[WorkerHandle] = []
        self.dead: dict[int, Death] = {}
        self.lost: dict[int, Lost] = {}
        self.restarts: list[Death] = []
        self.tasks = Tasks(slots)
        self.guard = Guard()
        self._is_closing = False
        self._dismissed: set[int] = set()
        self._held_back_until_s = 0.0
        self._dropped_runs: list[int] = []
        self._full: set[int] = set()
        self._last_run = -1
        self._begun: dict[int, Begin] = {}
        self._states: dict[tuple[int, int], bytes] = {}
        self._ended: set[tuple[int, int]] = set()
        self._is_stream = job.iterable
        self._dataset = job.dataset
        self._context = context
        self._restarts_left = most_restarts
        self._kills_before = oom_kills()
        self._selector = selectors.DefaultSelector()
        self._waker = Waker()
        shared = SharedEnds()
        closers: Closers = []
        queue = _open_queue(job.workers, slots, self._waker) if shares_tasks else None
        self.shared = None if queue is None else SharedTasks(queue, self.tasks)
        self._is_queue_full = False
        self._end = Shutdown(
            self.workers, self._selector, self._waker, slots, closers, shared, queue
        )
        weakref.finalize(self, self._end).atexit = False  # at exit it ends by itself
        try:
            self._watch(self._waker.read, _WOKEN, -1)
            arena = None if slots is None else slots.arena
            starter = Starter(job, arena, context, shared, closers, queue)
            for worker_id in range(job.workers):
                self.workers.append(starter.start(worker_id))
                self._watch_worker(worker_id)
        except BaseException:
            self.close()
            raise
        self._starter = starter if most_restarts else None
        if not most_restarts:
            close_all(closers)

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
        pickled = None if dataset_state is None else pickle.dumps(dataset_state)
        with self.guard:
            self.check_open()
            self._last_run += 1
            number = self._last_run
            self._begun[number] = Begin(
                number, shared_seed, pickled, epoch_of(self._dataset), seeded
            )
            self.tasks.open(number, mailbox)
            weakref.finalize(run, self._dropped_runs.append, number).atexit = False
            for worker_id in range(len(self.workers)):
                self._send(worker_id, encode(self._begun[number]))
        return number

    def assign(self, run: int, sequence: int, worker_id: int, indices: Any, packed: bytes) -> None:
        """Send a task, inside the guard; ``packed`` is ``indices``, for the worker."""
        self.tasks.add(run, sequence, worker_id, indices)
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
        self._sync_queue_watch()

    def _hand(self, worker_id: int, task: SharedTask) -> None:
        """Send a shared task through the pipe of one worker."""
        assert self.shared is not None
        self.shared.note_handed(worker_id, task)
        self._send(worker_id, encode(task))

    def dismiss(self, worker_ids: Iterable[int]) -> None:
        """These workers get no more tasks: each may leave as soon as it has done those it has."""
        with self.guard:
            for worker_id in worker_ids:
                self._dismissed.add(worker_id)
                self._send(worker_id, encode(Stop()))

    def pump(self, timeout_s: float | None) -> bool:
        """Wait for something to happen and put reports into mailboxes; whether anything did."""
        self._cancel_dropped_runs()
        try:
            events = self._selector.select(timeout_s)
        except (OSError, ValueError):
            if self.is_open:
                raise
            events = []
        if not self.is_open:
            if not self._is_closing:
                block_for_ever()
            return True
        with self.guard:
            for key, _ in events:
                what, worker_id = key.data
                if what is _REPORTED:
                    self._take_reports(worker_id)
                elif what is _DIED:
                    self._mark_dead(worker_id)
                elif what is not _WOKEN:
                    self._send_more(worker_id)
        return bool(events)

    def _send_more(self, worker_id: int) -> None:
        """There is room again in a worker's pipe, or in the queue of all."""
        if worker_id == ANYBODY:
            assert self.shared is not None
            self.shared.queue.flush()
            self._sync_queue_watch()
        else:
            self.workers[worker_id].orders.flush()
            self._sync_watch(worker_id)

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

    def _watch(self, descriptor: Any, what: str, worker_id: int) -> None:
        # Plain data: a bound method here would keep the pool alive through its own finalizer.
        events = selectors.EVENT_WRITE if what is _WRITABLE else selectors.EVENT_READ
        self._selector.register(descriptor, events, (what, worker_id))

    def _watch_worker(self, worker_id: int) -> None:
        worker = self.workers[worker_id]
        self._watch(worker.reports.descriptor, _REPORTED, worker_id)
        self._watch(worker.ended, _DIED, worker_id)

    def _unwatch(self, descriptor: Any) -> None:
        with contextlib.suppress(KeyError):  # two events of one call may both lead here
            self._selector.unregister(descriptor)

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
                self._sync_watch(worker_id)

    def _send(self, worker_id: int, frame: bytes) -> None:
        orders = self.workers[worker_id].orders
        if self._held_back_until_s and time.monotonic() < self._held_back_until_s:
            orders.put(frame)
            return
        orders.send(frame)
        if orders.unsent or self._full:
            self._sync_watch(worker_id)

    def _sync_watch(self, worker_id: int) -> None:
        """Wait for room in a worker's pipe exactly while something is unsent."""
        orders = self.workers[worker_id].orders
        if bool(orders.unsent) != (worker_id in self._full):
            if orders.unsent:
                self._full.add(worker_id)
                self._watch(orders.descriptor, _WRITABLE, worker_id)
            else:
                self._full.discard(worker_id)
                self._unwatch(orders.descriptor)

    def _sync_queue_watch(self) -> None:
        """Wait for room in the queue exactly while something is unsent."""
        assert self.shared is not None
        queue = self.shared.queue
        if bool(queue.unsent) != self._is_queue_full:
            self._is_queue_full = not self._is_queue_full
            if self._is_queue_full:
                self._watch(queue.descriptor, _WRITABLE, ANYBODY)
            else:
                self._unwatch(queue.descriptor)

    def _take_reports(self, worker_id: int) -> None:
        receiver = self.workers[worker_id].reports
        for frame in receiver.receive():
            self._route(worker_id, decode(frame))
        if receiver.is_closed:
            self._unwatch(receiver.descriptor)

    def _route(self, worker_id: int, report: Any) -> None:
        form = None
        if type(report) is Loaded:
            worker = self.workers[worker_id]
            if report.layout is not None and report.skeleton is not None:
                worker.form = BatchTemplate(report.layout, report.skeleton, worker.form)
            form = worker.form
            if report.dataset_state is not None and report.run in self._begun:
                self._states[report.run, worker_id] = report.dataset_state
        elif type(report) is Cancelled:
            self.tasks.on_cancelled(report, worker_id)
            return
        elif type(report) is Unfit:
            self._send_whole(report)
            return
        elif type(report) is Ended and report.run in self._begun:
            self._ended.add((report.run, worker_id))
        self.tasks.complete(worker_id, report, form)

    def _send_whole(self, report: Unfit) -> None:
        task = self.tasks.as_whole(report.run, report.sequence)
        if task is not None:
            self._put(report.run, report.sequence, task, pack(task.indices))

    def _mark_dead(self, worker_id: int) -> None:
        """A worker has ended; what it had sent before is taken first."""
        worker = self.workers[worker_id]
        self._unwatch(worker.ended)
        self._take_reports(worker_id)
        self._unwatch(worker.reports.descriptor)
        if worker_id in self._full:
            self._full.discard(worker_id)
            self._unwatch(worker.orders.descriptor)
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
        assert self._starter is not None
        worker_id = death.worker_id
        alive = set(self._begun).difference(self._dropped_runs)
        runs = sorted(run for run in alive if (run, worker_id) not in self._ended)
        if self._is_stream and not self._can_resume(runs, worker_id):
            return False
        with signals_deferred(self._context):
            try:
                worker = self._starter.start(worker_id)
            except OSError:  # no more processes or descriptors to be had: the death stays one
                return False
            self.workers[worker_id].hang_up(b"")
            self.workers[worker_id].release()
            self.workers[worker_id] = worker
            self._watch_worker(worker_id)
        self._restarts_left -= 1
        self.restarts.append(death)
        for number in runs:
            state = self._state_of(number, worker_id)
            self._send(worker_id, encode(self._begun[number]._replace(dataset_state=state)))
            for sequence, task in lost.get(number, ()):
                self.assign(number, sequence, worker_id, task.indices, pack(task.indices))
        if self.shared is not None and self._last_run not in runs:
            # Tasks of runs that are over may still lie in the queue: none of them is to come.
            self._send(worker_id, encode(Cancel(self._last_run, is_over=True)))
        for shared, flying in taken:
            self._hand(worker_id, with_indices(shared, flying))
        if worker_id in self._dismissed:
            self._send(worker_id, encode(Stop()))
        return True

    def _state_of(self, run: int, worker_id: int) -> bytes | None:
        """What the dataset of a new worker goes on from: behind the last batch, or as it began."""
        return self._states.get((run, worker_id), self._begun[run].dataset_state)

    def _can_resume(self, runs: list[int], worker_id: int) -> bool:
        """Whether a new worker can go on with a stream where a dead one was.

        One dataset can't be in two states. One without a state begins anew, which would repeat
        what was delivered; whether its iterator has a state is known from the first batch on. A
        seeded stream is read again up to the first task: what it yields follows from the seed.
        """
        if all(self._begun[run].seeded is not None for run in runs):
            return True
        if len(runs) > 1:
            return False
        return has_state(self._dataset) or all(
            self._state_of(run, worker_id) is not None for run in runs
        )

    def _cancel_dropped_runs(self) -> None:
        """Free what nobody will ask for; a worker may still write until it says Cancelled."""
        if not self._dropped_runs:
            return
        with self.guard:
            while self._dropped_runs:
                number = self._dropped_runs.pop()
                is_over = self.tasks.drop(number, len(self.workers))
                del self._begun[number]
                for worker_id in range(len(self.workers)):
                    self._states.pop((number, worker_id), None)
                    self._ended.discard((number, worker_id))
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
