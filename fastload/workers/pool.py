"""A pool of workers: sends them orders, sees their reports and their deaths, ends them.

Runs in: consumer.
Takes: orders of one or several runs.
Gives: each run its reports, in the order in which each worker made them.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time
import weakref
from multiprocessing import connection, util
from typing import Any, NamedTuple, NoReturn, Protocol

from fastload import descriptors
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
from fastload.workers.start import Worker, start_workers

_REPORTED, _DIED, _WRITABLE, _WOKEN = "reported", "died", "writable", "woken"

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
        - a slot is free again once its batch was dropped, its task failed or was cancelled;
        - an exception from outside (a signal handler) that hits a call half-way leaves
          ``is_busy`` set: the pool must not be used any more.
    """

    def __init__(self, job: Job, arena: Arena | None, slots: Slots | None, context: Any) -> None:
        self.lock = threading.RLock()
        self.owner = os.getpid()
        self.slots = slots
        self.workers: list[Worker] = []
        self.dead: list[int] = []
        self.is_busy = False
        self._is_closing = False
        self._runs: weakref.WeakValueDictionary[int, Run] = weakref.WeakValueDictionary()
        self._flying: dict[int, dict[int, InFlight]] = {}
        self._landed: dict[int, dict[int, tuple[int, int]]] = {}
        self._dropped_runs: list[int] = []
        self._unsettled: dict[int, set[int]] = {}
        self._full: set[int] = set()
        self._last_run = -1
        self._selector = selectors.DefaultSelector()
        self._wake = _Wake()
        watcher = object()
        self._end = util.Finalize(
            self,
            _end_workers,
            args=(self.workers, self._selector, self._wake, slots, arena, watcher),
            exitpriority=BEFORE_MULTIPROCESSING,
        )
        try:
            self._watch(self._wake.read, _WOKEN, -1)
            for worker in start_workers(job, arena, context, watcher):
                worker_id = len(self.workers)
                self.workers.append(worker)
                self._watch(worker.reports.descriptor, _REPORTED, worker_id)
                self._watch(worker.ended, _DIED, worker_id)
        except BaseException:
            self.close()
            raise
        if arena is not None:
            arena.close_descriptor()

    @property
    def is_open(self) -> bool:
        """Whether the workers have not been ended."""
        return not self._is_closing and bool(self._end.still_active())

    @property
    def is_usable(self) -> bool:
        """Whether another run can begin: open, whole, and in the process that made it."""
        return self.is_open and not self.dead and not self.is_busy and self.owner == os.getpid()

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

    def assign(self, run: int, sequence: int, worker_id: int, indices: Any, packed: bytes) -> None:
        """Send a task, with a slot if one is free; ``packed`` is ``indices``, pickled."""
        slot = self.slots.grant(worker_id) if self.slots is not None else None
        self._flying[run][sequence] = InFlight(worker_id, indices, time.monotonic_ns())
        task = Task(run, sequence, NO_SLOT if slot is None else slot, packed)
        self._send(worker_id, encode(task))

    def deliver(self, run: int, sequence: int) -> None:
        """Hand over a batch that has arrived; its slot is now the caller's."""
        self._landed[run].pop(sequence, None)

    def flying(self, run: int) -> dict[int, InFlight]:
        """The tasks of a run that have no report yet, by sequence number."""
        return self._flying[run]

    def pump(self, timeout_s: float | None) -> bool:
        """Wait for something to happen and tell the runs; returns whether anything did."""
        self._cancel_dropped_runs()
        try:
            events = self._selector.select(timeout_s)
        except (OSError, ValueError):
            if self.is_open:
                raise
            events = []
        if not self.is_open:
            if not self._is_closing:
                _wait_for_the_end()
            return True
        self.is_busy = True
        for key, _ in events:
            what, worker_id = key.data
            if what is _REPORTED:
                self._take_reports(worker_id)
            elif what is _DIED:
                self._mark_dead(worker_id)
            elif what is _WRITABLE:
                self.workers[worker_id].orders.flush()
                self._sync_watch(worker_id)
        self.is_busy = False
        return bool(events)

    def close(self) -> None:
        """End the workers; safe to call again, from any thread, and in a forked child."""
        if self.owner != os.getpid():
            return
        self._is_closing = True
        self._wake.up()  # a thread that waits in `pump` holds the lock
        with self.lock:
            self._end()

    def _watch(self, descriptor: Any, what: str, worker_id: int) -> None:
        # Plain data: a bound method here would keep the pool alive through its own finalizer.
        events = selectors.EVENT_WRITE if what is _WRITABLE else selectors.EVENT_READ
        self._selector.register(descriptor, events, (what, worker_id))

    def _unwatch(self, descriptor: Any) -> None:
        with contextlib.suppress(KeyError):  # two events of one call may both lead here
            self._selector.unregister(descriptor)

    def _send(self, worker_id: int, frame: bytes) -> None:
        self.workers[worker_id].orders.send(frame)
        self._sync_watch(worker_id)

    def _sync_watch(self, worker_id: int) -> None:
        """Wait for room in a worker's pipe exactly while something is unsent."""
        orders = self.workers[worker_id].orders
        if orders.has_unsent != (worker_id in self._full):
            if orders.has_unsent:
                self._full.add(worker_id)
                self._watch(orders.descriptor, _WRITABLE, worker_id)
            else:
                self._full.discard(worker_id)
                self._unwatch(orders.descriptor)

    def _take_reports(self, worker_id: int) -> None:
        receiver = self.workers[worker_id].reports
        for frame in receiver.receive():
            self._route(worker_id, decode(frame))
        if receiver.is_closed:
            self._unwatch(receiver.descriptor)

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
        self._unwatch(worker.ended)
        self._take_reports(worker_id)
        self._unwatch(worker.reports.descriptor)
        if worker_id in self._full:
            self._full.discard(worker_id)
            self._unwatch(worker.orders.descriptor)
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


def _wait_for_the_end() -> NoReturn:
    """The interpreter is exiting around this daemon thread, which has nothing to report."""
    while True:
        time.sleep(3600)


class _Wake:
    """Makes a thread that waits in the pool's selector return."""

    def __init__(self) -> None:
        self.read, self._write = map(descriptors.own, os.pipe())

    def up(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._write, b"!")

    def close(self) -> None:
        descriptors.close(self.read)
        descriptors.close(self._write)
        self.read = self._write = -1


def _end_workers(
    workers: list[Worker],
    selector: selectors.BaseSelector,
    wake: _Wake,
    slots: Slots | None,
    arena: Arena | None,
    watcher: object,
) -> None:
    """Ask all workers to leave, then terminate, then kill: in parallel, under one deadline.

    Whatever interrupts this, a second Ctrl-C for one, no worker outlives it.
    """
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
        for worker in workers:
            worker.release()
        wake.close()
        workers_gone(watcher)
        if slots is not None:
            slots.retire()
        if arena is not None:
            arena.close_descriptor()


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
