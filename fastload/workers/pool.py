"""A pool of workers: sends them orders, sees their reports and their deaths, ends them.

Runs in: consumer.
Takes: orders of one or several runs.
Gives: each run its reports, in the order in which each worker made them.
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
import weakref
from multiprocessing import connection, util
from typing import Any, NamedTuple, Protocol

from fastload.memory.arena import Arena
from fastload.memory.slots import Slots, workers_gone
from fastload.memory.write import NO_SLOT
from fastload.messages import (
    Begin,
    Cancel,
    Cancelled,
    Ended,
    Failed,
    Loaded,
    Stop,
    Task,
    decode,
    encode,
)
from fastload.workers.loop import Job
from fastload.workers.start import Worker, start_worker

_REPORTED, _DIED, _WRITABLE = "reported", "died", "writable"

GRACE_S = 0.5
"""How long workers may take to leave when asked, then when terminated, then when killed."""

BEFORE_MULTIPROCESSING = 100
"""Exit priority: multiprocessing's own exit would wait for live children without limit."""


class InFlight(NamedTuple):
    """A task that was sent and has no report yet."""

    worker_id: int
    indices: Any
    sent_ns: int


class Run(Protocol):
    """What the pool tells a run; it keeps only weak references to runs."""

    def accept(self, worker_id: int, report: Loaded | Failed | Ended) -> None:
        """A report on one of the run's tasks has arrived."""


class Pool:
    """Workers, the slots they write to and the runs they work for.

    Guarantees:
        - no call waits for a worker but ``pump``, for as long as it is told, and ``close``;
        - ``close`` ends every worker within about two seconds, whatever it does;
        - a slot is free again once its batch was dropped, its task failed or was cancelled.
    """

    def __init__(self, job: Job, arena: Arena | None, slots: Slots | None, context: Any) -> None:
        self.lock = threading.RLock()
        self.owner = os.getpid()
        self.slots = slots
        self.workers: list[Worker] = []
        self.dead: list[int] = []
        self._runs: weakref.WeakValueDictionary[int, Run] = weakref.WeakValueDictionary()
        self._flying: dict[int, dict[int, InFlight]] = {}
        self._landed: dict[int, dict[int, tuple[int, int]]] = {}
        self._dropped_runs: list[int] = []
        self._unsettled: dict[int, set[int]] = {}
        self._last_run = -1
        self._selector = selectors.DefaultSelector()
        watcher = object()
        self._end = util.Finalize(
            self,
            _end_workers,
            args=(self.workers, self._selector, arena, watcher),
            exitpriority=BEFORE_MULTIPROCESSING,
        )
        try:
            for worker_id in range(job.workers):
                worker = start_worker(worker_id, job, arena, context, watcher)
                self.workers.append(worker)
                self._watch(worker.reports.descriptor, _REPORTED, worker_id)
                self._watch(worker.process.sentinel, _DIED, worker_id)
        except BaseException:
            self.close()
            raise
        if arena is not None:
            arena.close_descriptor()

    @property
    def is_open(self) -> bool:
        """Whether the workers have not been ended."""
        return bool(self._end.still_active())

    @property
    def is_usable(self) -> bool:
        """Whether another run can begin: open, complete and in the process that made it."""
        return self.is_open and not self.dead and self.owner == os.getpid()

    def begin(self, run: Run, shared_seed: int | None) -> int:
        """Start a run on every worker; returns its number."""
        self._cancel_dropped_runs()
        self._last_run += 1
        number = self._last_run
        self._runs[number] = run
        self._flying[number] = {}
        self._landed[number] = {}
        weakref.finalize(run, self._dropped_runs.append, number).atexit = False
        for worker_id in range(len(self.workers)):
            self._send(worker_id, encode(Begin(number, shared_seed)))
        return number

    def assign(self, run: int, sequence: int, worker_id: int, indices: Any) -> None:
        """Send a task, with a slot if one is free.

        Raises:
            Exception: The indices can't be pickled.
        """
        slot = self.slots.grant(worker_id) if self.slots is not None else None
        try:
            frame = encode(Task(run, sequence, NO_SLOT if slot is None else slot, indices))
        except BaseException:
            if slot is not None:
                self._take_back(slot, worker_id)
            raise
        self._flying[run][sequence] = InFlight(worker_id, indices, time.monotonic_ns())
        self._send(worker_id, frame)

    def deliver(self, run: int, sequence: int) -> None:
        """Hand over a batch that has arrived; its slot is now the caller's."""
        self._landed[run].pop(sequence, None)

    def flying(self, run: int) -> dict[int, InFlight]:
        """The tasks of a run that have no report yet, by sequence number."""
        return self._flying[run]

    def pump(self, timeout_s: float | None) -> bool:
        """Wait for something to happen and tell the runs; returns whether anything did."""
        self._cancel_dropped_runs()
        events = self._selector.select(timeout_s)
        for key, _ in events:
            what, worker_id = key.data
            if what is _REPORTED:
                self._take_reports(worker_id)
            elif what is _DIED:
                self._mark_dead(worker_id)
            else:
                self._flush(worker_id)
        return bool(events)

    def close(self) -> None:
        """End the workers; safe to call again, and in a forked child, where it does nothing."""
        self._end()

    def _watch(self, descriptor: Any, what: str, worker_id: int) -> None:
        # Plain data: a bound method here would keep the pool alive through its own finalizer.
        events = selectors.EVENT_WRITE if what is _WRITABLE else selectors.EVENT_READ
        self._selector.register(descriptor, events, (what, worker_id))

    def _send(self, worker_id: int, frame: bytes) -> None:
        orders = self.workers[worker_id].orders
        had_unsent = orders.has_unsent
        orders.send(frame)
        if orders.has_unsent and not had_unsent:
            self._watch(orders.descriptor, _WRITABLE, worker_id)

    def _flush(self, worker_id: int) -> None:
        orders = self.workers[worker_id].orders
        orders.flush()
        if not orders.has_unsent:
            self._selector.unregister(orders.descriptor)

    def _take_reports(self, worker_id: int) -> None:
        receiver = self.workers[worker_id].reports
        for frame in receiver.receive():
            self._route(worker_id, decode(frame))
        if receiver.is_closed:
            self._selector.unregister(receiver.descriptor)

    def _route(self, worker_id: int, report: Any) -> None:
        if isinstance(report, Cancelled):
            self._settle(report, worker_id)
            return
        if isinstance(report, Loaded):
            report = self._complete(worker_id, report)
        del self._flying[report.run][report.sequence]
        run = self._runs.get(report.run)
        if run is not None and isinstance(report, Loaded) and report.slot != NO_SLOT:
            assert self.slots is not None
            self.slots.come_back(report.slot, worker_id)
            self._landed[report.run][report.sequence] = report.slot, worker_id
        else:
            self._take_back(report.slot, worker_id)
        if run is not None:
            run.accept(worker_id, report)

    def _complete(self, worker_id: int, report: Loaded) -> Loaded:
        """Fill in what the worker left out because its batch before had the same."""
        worker = self.workers[worker_id]
        if report.layout is None:
            assert worker.last is not None
            layout, skeleton = worker.last
            return report._replace(layout=layout, skeleton=skeleton)
        if report.skeleton is not None:
            worker.last = report.layout, report.skeleton
        return report

    def _mark_dead(self, worker_id: int) -> None:
        """A worker ended by itself; what it had sent before is taken first."""
        worker = self.workers[worker_id]
        self._selector.unregister(worker.process.sentinel)
        if not worker.reports.is_closed:
            self._take_reports(worker_id)
        worker.process.join(GRACE_S)
        self.dead.append(worker_id)
        if self.slots is not None:
            self.slots.reclaim(worker_id)

    def _cancel_dropped_runs(self) -> None:
        """Free what nobody will ask for; a worker may still write until it says Cancelled."""
        while self._dropped_runs:
            number = self._dropped_runs.pop()
            for slot, worker_id in self._landed.pop(number).values():
                assert self.slots is not None
                self.slots.give_back(slot, worker_id)
            self._unsettled[number] = set(range(len(self.workers)))
            for worker_id in range(len(self.workers)):
                self._send(worker_id, encode(Cancel(number)))

    def _settle(self, report: Cancelled, worker_id: int) -> None:
        for slot in report.slots:
            self._take_back(slot, worker_id)
        self._unsettled[report.run].discard(worker_id)
        if not self._unsettled[report.run]:
            del self._unsettled[report.run], self._flying[report.run]

    def _take_back(self, slot: int, worker_id: int) -> None:
        """Free a slot that a worker had and nobody will read."""
        if self.slots is not None and slot != NO_SLOT:
            self.slots.come_back(slot, worker_id)
            self.slots.give_back(slot, worker_id)


def _end_workers(
    workers: list[Worker], selector: selectors.BaseSelector, arena: Arena | None, watcher: object
) -> None:
    """Ask all workers to leave, then terminate, then kill: in parallel, under one deadline."""
    selector.close()
    for worker in workers:
        worker.hang_up(encode(Stop()))
    alive = _still_alive(workers)
    for name in ("terminate", "kill"):
        for worker in alive:
            getattr(worker.process, name)()
        alive = _still_alive(alive)
    for worker in workers:
        worker.release()
    workers_gone(watcher)
    if arena is not None:
        arena.close_descriptor()


def _still_alive(workers: list[Worker]) -> list[Worker]:
    """Those that have not ended within the grace period; the others are reaped."""
    deadline_s = time.monotonic() + GRACE_S
    alive = list(workers)
    while alive and (remaining_s := deadline_s - time.monotonic()) > 0:
        ended = connection.wait([worker.process.sentinel for worker in alive], remaining_s)
        for worker in alive:
            if worker.process.sentinel in ended:
                worker.process.join(GRACE_S)
        alive = [worker for worker in alive if worker.process.sentinel not in ended]
    return alive


def describe_exit(exitcode: int | None) -> str:
    """An exit code in words: the signal's name, or the code."""
    if exitcode is None:
        return "ended for an unknown reason"
    if exitcode < 0:
        try:
            return f"was killed by {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"was killed by signal {-exitcode}"
    return f"exited with code {exitcode}"
