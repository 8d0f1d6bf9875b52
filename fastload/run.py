"""One pass of one iterator over the dataset.

Runs in: consumer.
Takes: the sampler's indices.
Gives: batches, or what went wrong with them, in their order.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from typing import Any

from fastload.delivery.order import CONSUMER, END, WAIT, InOrder
from fastload.errors import LoadingInterrupted, LoadingTimeout, WorkerDied, show
from fastload.memory.leases import unwrap
from fastload.messages import Ended, Failed, Loaded
from fastload.workers.exceptions import unpack
from fastload.workers.pool import Pool


class Run:
    """One pass of one iterator: its sampler, its order and its place in the pool."""

    def __init__(
        self, pool: Pool, order: InOrder, indices: Iterator[Any], seed: int | None
    ) -> None:
        self.pool = pool
        self._order = order
        self._indices: Iterator[Any] | None = indices
        self._number = pool.begin(self, seed)

    def request(self) -> None:
        """Ask the sampler for the indices of one more batch and a worker to load it.

        An error of the sampler takes the place of the batch it would have named.
        """
        if self._indices is None:
            return
        try:
            indices = next(self._indices)
        except StopIteration:
            self._indices = None
            return
        except Exception as error:  # noqa: BLE001  (raised again, in its place in the order)
            self._order.arrive(self._order.send(CONSUMER), (CONSUMER, error))
            return
        try:
            packed = pickle.dumps(indices, protocol=5)
        except Exception as error:  # noqa: BLE001  (as above)
            self._order.arrive(self._order.send(CONSUMER), (CONSUMER, error))
            return
        worker_id = self._order.choose()
        if worker_id is not None:
            sequence = self._order.send(worker_id)
            self.pool.assign(self._number, sequence, worker_id, indices, packed)

    def accept(self, worker_id: int, report: Loaded | Failed | Ended) -> None:
        """Called by the pool."""
        if isinstance(report, Ended):
            if self._order.end_worker(worker_id):
                self.request()
        else:
            self._order.arrive(report.sequence, (worker_id, report))

    def next(self, timeout_s: float) -> tuple[int, Any]:
        """The next result: the worker it came from and its report, or an error of the sampler.

        Leaves the pool busy: the caller has a result in hand that must not be lost.

        Raises:
            StopIteration: The epoch is over.
            LoadingTimeout: Nothing has arrived for ``timeout_s`` (0: no limit).
            LoadingInterrupted: An earlier call was interrupted half-way.
            WorkerDied: A worker ended and its batches with it.
        """
        pool = self.pool
        while True:
            self._check_workers()
            pool.is_busy = True
            sequence, result = self._order.next()
            if result is not WAIT and result is not END:
                return sequence, result
            pool.is_busy = False
            if result is END:
                raise StopIteration
            self._check_deaths()
            if not pool.pump(timeout_s or None) and timeout_s and pool.is_open:
                raise self._timeout(sequence, timeout_s)

    def deliver(self, sequence: int, worker_id: int, report: Any) -> tuple[Any, Any]:
        """The batch of a report, or None and the exception that took its place."""
        if worker_id == CONSUMER:
            return None, report
        self.pool.tasks.deliver(self._number, sequence)
        if isinstance(report, Failed):
            return None, unpack(report.error, f"in fastload worker {worker_id}, batch {sequence}")
        try:
            return unwrap(report, self.pool.slots, worker_id), None
        except Exception as error:  # noqa: BLE001  (a class whose unpickling fails)
            return None, error
        except SystemExit as error:
            return None, error

    def _check_workers(self) -> None:
        if self.pool.is_busy:
            raise LoadingInterrupted(
                "an exception from outside, such as Ctrl-C or one raised by a signal handler, "
                "interrupted this iterator while a batch changed hands; call iter(loader) to "
                "begin a new epoch"
            )
        if not self.pool.is_open:
            raise RuntimeError(
                "the workers of this iterator were shut down; call iter(loader) for a new one"
            )

    def _check_deaths(self) -> None:
        for worker_id in self.pool.dead:
            if self._order.is_waiting_for(worker_id):
                raise self._death(worker_id)

    def _death(self, worker_id: int) -> WorkerDied:
        worker = self.pool.workers[worker_id]
        lost = "; ".join(
            f"batch {sequence}, dataset indices {show(task.indices)}"
            for sequence, task in self.pool.tasks.flying(self._number).items()
            if task.worker_id == worker_id
        )
        return WorkerDied(
            f"DataLoader worker {worker_id} (pid {worker.process.pid}) "
            f"{worker.how_it_ended()} while it had to load: {lost}. If it was killed, "
            f"the machine or container may have run out of memory; if it crashed, look at what "
            f"the dataset does for these indices.",
            worker_id,
            worker.exitcode,
        )

    def _timeout(self, sequence: int, timeout_s: float) -> LoadingTimeout:
        task = self.pool.tasks.flying(self._number).get(sequence)
        detail = ""
        if task is not None:
            waited_s = (time.monotonic_ns() - task.sent_ns) / 1e9
            detail = (
                f": worker {task.worker_id} was given batch {sequence} (dataset indices "
                f"{show(task.indices)}) {waited_s:.1f} s ago and has not finished it"
            )
        return LoadingTimeout(f"DataLoader timed out after {timeout_s} seconds{detail}")
