"""One pass of one iterator over the dataset.

Runs in: consumer.
Takes: the sampler's indices.
Gives: batches, or what went wrong with them, in their order.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

from fastload._epoch.deliver import unwrap
from fastload._epoch.order import CONSUMER, END, WAIT, InOrder
from fastload._loading.dataset_state import DatasetState
from fastload._memory.view import BatchTemplate, BrokenBatchError
from fastload._pool.deaths import Death
from fastload._pool.pool import Pool
from fastload._wire.exceptions import unpack
from fastload._wire.indices import pack
from fastload._wire.messages import Empty, Ended, Loaded, Outcome, SeededBegin
from fastload.errors import LoadingInterrupted, LoadingTimeout, WorkerDied, show
from fastload.stats.counters import Counters

STALL_WARNING_S = 30
"""Without a timeout, a worker that gives nothing for so long is shown once."""

WARN_AT_LOOP = 7
"""Stack level of the ``for`` statement that waits for a batch."""


def workers_closed_error() -> RuntimeError:
    """For who asks for a batch of workers that were ended."""
    return RuntimeError(
        "the workers of this iterator were shut down; call iter(loader) for a new one"
    )


class Run:
    """One pass of one iterator: its sampler, its order and its place in the pool."""

    def __init__(
        self,
        pool: Pool,
        order: InOrder,
        indices: Iterator[Any],
        seed: int | None,
        counters: Counters,
        *,
        ends_pool: bool,
        dataset_state: DatasetState | None = None,
        seeded: SeededBegin | None = None,
    ) -> None:
        """``ends_pool`` says that the workers have nothing to do after this run.

        ``dataset_state`` is what the dataset goes on from, in each worker.
        """
        self.pool = pool
        self._ends_pool = ends_pool
        self._counters = counters
        self._has_warned_of_stall = False
        self._order = order
        self._indices: Iterator[Any] | None = indices
        self._number = pool.begin(self, seed, dataset_state, seeded)

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
            if self._ends_pool:
                self.pool.dismiss(range(len(self.pool.workers)))
            return
        except Exception as error:  # noqa: BLE001  (raised again, in its place in the order)
            self._order.arrive(self._order.send(CONSUMER), (CONSUMER, error, None))
            return
        try:
            packed = pack(indices)
        except Exception as error:  # noqa: BLE001  (as above)
            self._order.arrive(self._order.send(CONSUMER), (CONSUMER, error, None))
            return
        worker_id = self._order.choose()
        if worker_id is not None:
            sequence = self._order.send(worker_id)
            self.pool.assign(self._number, sequence, worker_id, indices, packed)

    def accept(self, worker_id: int, report: Outcome, form: BatchTemplate | None) -> None:
        """Called by the pool."""
        if type(report) is Ended:
            if self._order.end_worker(worker_id):
                if self._ends_pool:
                    self.pool.dismiss([worker_id])
                self.request()
        else:
            self._order.arrive(report.sequence, (worker_id, report, form))

    def next(self, timeout_s: float) -> tuple[int, Any]:
        """The next result: the worker it came from, its report (or the sampler's error), its form.

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
            while pool.restarts:
                self._tell_of_restart(pool.restarts.pop(0))
            pool.is_busy = True
            sequence, result = self._order.next()
            if result is not WAIT and result is not END:
                return sequence, result
            pool.is_busy = False
            if result is END:
                raise StopIteration
            self._check_deaths()
            stall_s = None if self._has_warned_of_stall else STALL_WARNING_S
            if not pool.pump(timeout_s or stall_s) and pool.is_open:
                if timeout_s:
                    raise self._timeout(sequence, timeout_s)
                self._warn_of_stall(sequence)

    def deliver(
        self, sequence: int, worker_id: int, report: Any, form: BatchTemplate | None
    ) -> tuple[Any, Any]:
        """The batch of a report, or None and the exception that took its place.

        Of an empty report there is neither.
        """
        if worker_id == CONSUMER:
            return None, report
        self.pool.tasks.deliver(self._number, sequence)
        if type(report) is Loaded:
            try:
                return unwrap(report, form, self.pool.slots, worker_id), None
            except BrokenBatchError as broken:
                return None, broken.__cause__
        if type(report) is Empty:
            return None, None
        return None, unpack(report.error, f"in fastload worker {worker_id}, batch {sequence}")

    def _check_workers(self) -> None:
        if not self.pool.is_open:
            raise workers_closed_error()
        if self.pool.is_busy:
            raise LoadingInterrupted(
                "an exception from outside, such as Ctrl-C or one raised by a signal handler, "
                "interrupted this iterator while a batch changed hands; call iter(loader) to "
                "begin a new epoch"
            )

    def _check_deaths(self) -> None:
        for worker_id, death in self.pool.dead.items():
            if self._order.is_waiting_for(worker_id):
                raise self._died(death)

    def _died(self, death: Death) -> WorkerDied:
        lost = self.pool.lost[death.worker_id].get(self._number, [])
        batches = "; ".join(
            f"batch {sequence}, dataset indices {show(task.indices)}" for sequence, task in lost
        )
        stack = f"\nIts stack when it crashed:\n{death.stack}" if death.stack else ""
        return WorkerDied(
            f"DataLoader worker (pid {death.pid}) {death.how}. It was worker {death.worker_id} and "
            f"had to load: {batches}. {death.cause} "
            f"max_worker_restarts=N starts such a worker again.{stack}",
            death.worker_id,
            death.exitcode,
        )

    def _tell_of_restart(self, death: Death) -> None:
        self._counters.restarted()
        warnings.warn(
            f"DataLoader worker {death.worker_id} (pid {death.pid}) {death.how} and was started "
            f"again; the batches it had not finished are loaded again. {death.cause}",
            RuntimeWarning,
            stacklevel=WARN_AT_LOOP,
        )

    def _timeout(self, sequence: int, timeout_s: float) -> LoadingTimeout:
        return LoadingTimeout(
            f"DataLoader timed out after {timeout_s} seconds{self._whereabouts(sequence)}"
        )

    def _warn_of_stall(self, sequence: int) -> None:
        self._has_warned_of_stall = True
        warnings.warn(
            f"no batch has arrived for {STALL_WARNING_S} seconds{self._whereabouts(sequence)}\n"
            f"This warning comes once; timeout= makes it an error.",
            RuntimeWarning,
            stacklevel=WARN_AT_LOOP,
        )

    def _whereabouts(self, sequence: int) -> str:
        """Who was to load a batch, since when, and where that worker is now."""
        task = self.pool.tasks.flying(self._number).get(sequence)
        if task is None:
            return ""
        waited_s = (time.monotonic_ns() - task.sent_ns) / 1e9
        stack = self.pool.workers[task.worker_id].stack()
        shown = f". Its stack:\n{stack}" if stack else ". It does not answer: is it stopped?"
        return (
            f": worker {task.worker_id} was given batch {sequence} (dataset indices "
            f"{show(task.indices)}) {waited_s:.1f} s ago and has not finished it{shown}"
        )
