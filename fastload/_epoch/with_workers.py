"""The whole way of a batch with workers.

Runs in: consumer.

    sampler ─▶ Run.request ─▶ order.choose ─▶ pool.assign ──pipe──▶ worker: fetch, collate, write
    yours ◀─ pin ◀─ Run.deliver ◀─ order.head ◀─ Mailbox ◀─ pool.pump ◀──pipe── Loaded

``inline`` is the same way in one process, and the specification of this one.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any, NamedTuple

from fastload._epoch import resume
from fastload._epoch.base import EpochIterator
from fastload._epoch.loader import Loader
from fastload._epoch.run import ProcessRun, Run
from fastload._epoch.worker_pool import WorkerPool
from fastload._memory.fake_tensors import real_tensors
from fastload._pool.make import make_pool
from fastload._pool.pool import PoolClosedError
from fastload._system.interruptions import NOTHING, is_from_outside
from fastload._torch_private import BaseIterator, MultiProcessingIterator, pin_memory
from fastload._wire.exceptions import reraisable
from fastload._wire.messages import Loaded, SeededBegin
from fastload.errors import (
    FastloadError,
    ForeignProcessError,
    LoadingInterrupted,
    TooManyErrors,
    WorkerDied,
)
from fastload.stats.counters import Counters, new_counters


class PersistentWorkers(NamedTuple):
    """What persistent workers carry from one epoch to the next: themselves and their seeds.

    Without a pool, new workers are started, with these seeds.
    """

    pool: WorkerPool | None
    state: dict[str, Any]

    @property
    def is_usable(self) -> bool:
        """Whether another epoch can begin with it."""
        return self.pool is None or self.pool.is_usable


class NewWorkers:
    """The way that starts worker processes for the epoch; always possible."""

    began = resume.NEW_WORKERS

    def __init__(self, *, is_kept: bool) -> None:
        self.is_kept = is_kept

    def begin(self, loader: Loader) -> WorkersIterator:
        """Start workers and make the epoch's iterator."""
        return WorkersIterator(loader)


class KeptWorkers:
    """The way of later epochs of persistent workers."""

    began = resume.KEPT_WORKERS
    is_kept = True

    def __init__(self, workers: PersistentWorkers) -> None:
        self._workers = workers

    def begin(self, loader: Loader) -> WorkersIterator:
        """Make the epoch's iterator, on the workers of the epoch before."""
        return WorkersIterator(loader, self._workers)


def offer(loader: Loader, before: Any) -> NewWorkers | KeptWorkers | None:
    """Possible wherever workers are asked for: with those of the epoch before, or new ones."""
    if loader.num_workers == 0:
        return None
    kept: PersistentWorkers | None = getattr(before, "kept_workers", None)
    if kept is not None and kept.is_usable:
        return KeptWorkers(kept)
    return NewWorkers(is_kept=loader.persistent_workers)


class WorkersIterator(EpochIterator, MultiProcessingIterator):  # type: ignore[misc]  # its base is untyped
    """What ``iter(loader)`` gives with workers.

    It is torch's iterator class in name, for trainers that test for it, and starts none of its
    machinery. Several threads may share one: each batch goes to exactly one of them.
    """

    starts_all = False
    """Whether all workers are started before the first of them gets something to do."""

    starts_later = False
    """Whether workers may be started when the program has got a batch, and perhaps changed the
    dataset. Torch's are all there behind ``iter``, and see the dataset as it was then.
    """

    shares_tasks = False
    """Whether tasks go to whoever is idle; with torch's random numbers each has its worker."""

    _seeded: SeededBegin | None = None
    _pool: WorkerPool

    def __init__(self, loader: Loader, kept_workers: PersistentWorkers | None = None) -> None:
        """Begin an epoch: with new workers, or with those of an earlier epoch."""
        is_new = kept_workers is None
        if kept_workers is None:
            with real_tensors():
                BaseIterator.__init__(self, loader)
            self._prepare_dataset()
            kept_workers = PersistentWorkers(None, dict(vars(self)))
        self.__dict__.update(kept_workers.state)
        pool = kept_workers.pool
        if pool is None:
            pool = self._make_pool(loader)
        self._reset_as_with_workers(loader, is_new=is_new)
        self.kept_workers = PersistentWorkers(pool, kept_workers.state)
        self._start_sampler(loader)
        self._start(pool, loader, *self._numbers(loader), new_counters())

    def _prepare_dataset(self) -> None:
        """Change what workers are given as the dataset; here it is the loader's."""

    def _make_pool(self, loader: Loader) -> WorkerPool:
        """Start workers."""
        return make_pool(self, loader, *self._numbers(loader))

    def _numbers(self, loader: Loader) -> tuple[int, int]:
        """Number of workers, and of tasks for each of them that are sent ahead."""
        return loader.num_workers, loader.prefetch_factor

    def _start(
        self,
        pool: WorkerPool,
        loader: Loader,
        workers: int,
        prefetch_factor: int,
        counters: Counters,
    ) -> None:
        """All but what torch draws at the beginning of an epoch."""
        self._timeout = loader.timeout
        self._pool = pool
        self._persistent_workers = loader.persistent_workers
        self._profile_name = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
        self._counters = counters
        self._max_errors = loader.max_errors
        self._failure: BaseException | None = None
        self._is_finished = False
        try:
            with pool.lock, pool.sending_together():
                self._run = self._make_run(loader, workers, prefetch_factor, counters)
                self._run.request()
            if not self.starts_later:
                with pool.lock:
                    pool.complete()
        except Exception as error:
            self._check_closed(error)
            raise

    def _make_run(
        self, loader: Loader, workers: int, prefetch_factor: int, counters: Counters
    ) -> Run:
        """Begin a pass on the workers."""
        return ProcessRun(
            self._pool,
            self._draws,
            self._pipes_seed,
            counters,
            most_tasks=prefetch_factor * workers,
            in_order=loader.in_order,
            ends_pool=not loader.persistent_workers,
            dataset_state=loader._live.take_dataset_state(),
            seeded=self._seeded,
        )

    def _next_data(self) -> Any:
        pool = self._pool
        if pool.owner != os.getpid():
            raise ForeignProcessError(
                f"this iterator belongs to process {pool.owner} and its workers; process "
                f"{os.getpid()} must call iter(loader) for an iterator of its own"
            )
        asked_ns = time.monotonic_ns()
        with pool.lock:
            if self._failure is not None:
                self._end_unusable()  # again, if that was interrupted
                raise self._failure
            pending = self._pending.batch
            if pending is not None and pending[0] == threading.get_ident():
                batch = pending[1]  # an exception from outside hit us on the way to the caller
            elif self._is_finished:
                self._end_if_not_kept()
                raise StopIteration
            else:
                try:
                    batch = self._receive(asked_ns)
                except Exception as error:
                    self._check_closed(error)
                    raise
        if self._pin_memory:
            pinning_ns = time.monotonic_ns()
            batch = pin_memory(batch, self._pin_memory_device)
            self._counters.pinned(self._number, time.monotonic_ns() - pinning_ns)
        return batch

    def _receive(self, asked_ns: int) -> Any:
        run, pending = self._run, self._pending
        while pending.error is None:
            if run.counts_held:
                run.request()
            sequence, result = self._next_result()
            got_ns = time.monotonic_ns()
            run.request(delivering=sequence)
            if not run.has_more:
                self._go_ahead(run)
            requested_ns = time.monotonic_ns()
            with self._pool.guard:
                is_batch = self._take(sequence, result)
            if is_batch:
                if run.cut.looks:
                    self._note_cost(result.report, asked_ns, got_ns)
                self._number = self._counters.delivered(
                    result.report, result.worker_id, asked_ns, got_ns, requested_ns
                )
                assert pending.batch is not None
                return pending.batch[1]
        self._counters.failed(time.monotonic_ns() - asked_ns)
        error, pending.error = pending.error, None  # nothing can come between this and `raise`
        raise error

    def _go_ahead(self, run: Run) -> None:
        """The sampler has ended: begin what comes after this epoch, if that is known."""

    def _note_cost(self, report: Loaded, asked_ns: int, got_ns: int) -> None:
        """Tell what decides how batches are cut what this one has cost."""
        _, started_ns, _, _, written_ns, *_ = report.stamps
        self._run.cut.note(
            written_ns - started_ns, got_ns - asked_ns, got_ns - self._counters.latest_ns
        )

    def _take(self, sequence: int, result: Any) -> bool:
        """Take a result off and note what is to be returned or raised; whether it is a batch."""
        pending = self._pending
        batch, raised = self._run.deliver(sequence, result)
        if raised is not None:
            pending.error = reraisable(raised)
            self.position.note_error()
            return False
        self.position.advance()
        if result.report.skipped:
            try:
                self._count_skipped(result.report.skipped)
            except TooManyErrors as error:
                pending.error = error
                return False
        if type(result.report) is not Loaded:
            return False
        pending.batch = threading.get_ident(), batch
        return True

    def _check_closed(self, error: Exception) -> None:
        """See whether an error means that the pool was closed from within the call it hit.

        Raises:
            PoolClosedError: It does. What a signal handler itself raises passes, and what we say.
        """
        is_half_done = self._pool.guard.depth and not self._pool.is_open
        is_said = isinstance(error, PoolClosedError | FastloadError)
        if is_half_done and not is_said and not is_from_outside(error):
            raise PoolClosedError from error

    def _next_result(self) -> Any:
        try:
            return self._run.next(self._timeout)
        except StopIteration:
            self._is_finished = self.position.is_finished = True
            self._end_if_not_kept()
            raise
        except (WorkerDied, LoadingInterrupted) as error:
            self._failure = error
            self._end_unusable()
            raise

    def _end_if_not_kept(self) -> None:
        if not self._persistent_workers:
            self._pool.close()

    def _end_unusable(self) -> None:
        if not (self._persistent_workers and self._pool.is_usable):
            self._pool.close()

    @property
    def _workers(self) -> list[Any]:
        pool = self._pool
        if pool.is_growing:  # or without the lock, which a thread that waits for a batch holds
            with pool.lock:
                pool.complete()
        return [worker.process for worker in pool.workers]

    def close(self) -> None:
        """End the workers now."""
        self._pool.close()

    _shutdown_workers = close  # what trainers call of torch's iterator

    __del__ = NOTHING  # torch's would touch state that is not there; the pool ends by itself
