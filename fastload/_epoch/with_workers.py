"""The whole way of a batch with workers.

Runs in: consumer.

    sampler ─▶ Run.request ─▶ order.choose ─▶ pool.assign ──pipe──▶ worker: fetch, collate, write
    yours ◀─ pin ◀─ Run.deliver ◀─ order.next ◀─ Run.accept ◀─ pool.pump ◀──pipe── Loaded

``inline`` is the same way in one process, and the specification of this one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from typing import Any, NamedTuple

from torch.utils.data import IterDataPipe, MapDataPipe

from fastload._epoch import resume
from fastload._epoch.base import EpochIterator, Hand
from fastload._epoch.order import AsCompleted, InOrder
from fastload._epoch.run import Run, workers_closed_error
from fastload._memory import reuse
from fastload._memory.arena import Arena
from fastload._memory.fake_tensors import real_tensors
from fastload._memory.slots import SPARE_GRANTS, Slots
from fastload._pool.pool import Pool
from fastload._pool.start import context_of, forks, opening_files_for, signals_deferred
from fastload._system.memory_limits import address_space_limit_bytes, default_limit_bytes
from fastload._torch_private import (
    BaseIterator,
    MultiProcessingIterator,
    is_iterable_kind,
    pin_memory,
    sharding_worker_init_fn,
)
from fastload._wire.exceptions import reraisable
from fastload._wire.messages import Loaded, SeededBegin, Skip
from fastload._worker.job import WorkerSpec
from fastload.errors import ForeignProcessError, LoadingInterrupted, TooManyErrors, WorkerDied
from fastload.stats.counters import Counters

MOST_LEASES = 8
"""Batches the user may hold without a copy. Training loops hold one or two, trainers up to four."""

ALWAYS_ROOM_FOR = 3
"""Batches beyond those in flight for which the limit on shared memory is divided."""

_OF_CLOSED_POOLS = (IndexError, KeyError, OSError, ValueError)
"""What a call may meet when a signal handler has closed the pool under it."""


class PersistentWorkers(NamedTuple):
    """What persistent workers carry from one epoch to the next: themselves and their seeds.

    Without a pool, new workers are started, with these seeds.
    """

    pool: Pool | None
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

    def begin(self, loader: Any) -> WorkersIterator:
        """Start workers and make the epoch's iterator."""
        return WorkersIterator(loader)


class KeptWorkers:
    """The way of later epochs of persistent workers."""

    began = resume.KEPT_WORKERS
    is_kept = True

    def __init__(self, workers: PersistentWorkers) -> None:
        self._workers = workers

    def begin(self, loader: Any) -> WorkersIterator:
        """Make the epoch's iterator, on the workers of the epoch before."""
        return WorkersIterator(loader, self._workers)


def offer(loader: Any, before: Any) -> NewWorkers | KeptWorkers | None:
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

    _seeded: SeededBegin | None = None

    def __init__(self, loader: Any, kept_workers: PersistentWorkers | None = None) -> None:
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
            pool = make_pool(self, loader, *self._numbers(loader))
        self._reset_as_with_workers(loader, is_new=is_new)
        self.kept_workers = PersistentWorkers(pool, kept_workers.state)
        self._hand = Hand()
        self._start_sampler(loader)
        self._start(pool, loader, *self._numbers(loader), Counters())

    def _prepare_dataset(self) -> None:
        """Change what workers are given as the dataset; here it is the loader's."""

    def _numbers(self, loader: Any) -> tuple[int, int]:
        """Number of workers, and of tasks for each of them that are sent ahead."""
        return loader.num_workers, loader.prefetch_factor

    def _start(
        self, pool: Pool, loader: Any, workers: int, prefetch_factor: int, counters: Counters
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
        most_tasks = prefetch_factor * workers
        make_order = InOrder if loader.in_order else AsCompleted
        order = make_order(workers, most_tasks)
        with pool.lock:
            pool.is_busy = True
            try:
                with pool.sending_together():
                    self._run = Run(
                        pool,
                        order,
                        self._sampler_iter,
                        self._pipes_seed,
                        counters,
                        ends_pool=not loader.persistent_workers,
                        dataset_state=loader._live.take_dataset_state(),
                        seeded=self._seeded,
                    )
                    for _ in range(most_tasks):
                        self._run.request()
            except _OF_CLOSED_POOLS as error:
                self._check_closed(error)
                raise
            pool.is_busy = False

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
                raise self._failure
            kept = self._hand.kept
            if kept is not None and kept[0] == threading.get_ident():
                batch = kept[1]  # an exception from outside hit us between the lock and the caller
            elif self._is_finished:
                raise StopIteration
            else:
                try:
                    batch = self._receive(asked_ns)
                except _OF_CLOSED_POOLS as error:
                    self._check_closed(error)
                    raise
        if self._pin_memory:
            pinning_ns = time.monotonic_ns()
            batch = pin_memory(batch, self._pin_memory_device)
            self._counters.pinned(self._number, time.monotonic_ns() - pinning_ns)
        return batch

    def _receive(self, asked_ns: int) -> Any:
        pool, counters = self._pool, self._counters
        report: Any = None
        while not isinstance(report, Loaded):
            sequence, (worker_id, report, form) = self._next_report()
            got_ns = time.monotonic_ns()
            self._run.request()
            requested_ns = time.monotonic_ns()
            batch, raised = self._run.deliver(sequence, worker_id, report, form)
            if raised is not None:
                error = reraisable(raised)
                counters.failed(time.monotonic_ns() - asked_ns)
                self.position.note_error()
                pool.is_busy = False
                raise error
            self.position.advance()
            if report.skipped:
                self._skip(report.skipped)
            pool.is_busy = isinstance(report, Loaded)
        self._number = counters.delivered(report, worker_id, asked_ns, got_ns, requested_ns)
        self._hand.kept = threading.get_ident(), batch
        pool.is_busy = False
        return batch

    def _check_closed(self, error: Exception) -> None:
        """See whether an error means that the pool was closed from within the call it hit.

        Raises:
            RuntimeError: It does. Other exceptions of a signal handler that closed it pass.
        """
        if type(error) in _OF_CLOSED_POOLS and self._pool.is_busy and not self._pool.is_open:
            raise workers_closed_error() from error

    def _skip(self, skipped: tuple[Skip, ...]) -> None:
        try:
            self._count_skipped(skipped)
        except TooManyErrors:
            self._pool.is_busy = False
            raise

    def _next_report(self) -> tuple[int, Any]:
        try:
            return self._run.next(self._timeout)
        except StopIteration:
            self._is_finished = self.position.is_finished = True
            if not self._persistent_workers:
                self._pool.close()
            raise
        except (WorkerDied, LoadingInterrupted) as error:
            self._failure = error
            self._pool.close()
            raise

    @property
    def _workers(self) -> list[Any]:
        return [worker.process for worker in self._pool.workers]

    def close(self) -> None:
        """End the workers now."""
        self._pool.close()

    _shutdown_workers = close  # what trainers call of torch's iterator

    def __del__(self) -> None:
        """Nothing: torch's would touch state that is not there; the pool ends by itself."""


def make_pool(iterator: Any, loader: Any, workers: int, prefetch_factor: int) -> Pool:
    """Start workers for an iterator of this loader.

    Raises:
        AssertionError: As torch's, if nothing is to be prefetched.
    """
    if prefetch_factor <= 0:
        raise AssertionError(
            "prefetch_factor must be greater than 0 for MultiProcessingDataLoaderIter"
        )
    worker_init_fn = loader.worker_init_fn
    if isinstance(iterator._dataset, IterDataPipe | MapDataPipe):
        worker_init_fn = functools.partial(
            sharding_worker_init_fn,
            worker_init_fn,
            iterator._world_size,
            iterator._rank,
        )
    is_stream = iterator._dataset_kind == is_iterable_kind
    most_restarts = loader.max_worker_restarts
    job = WorkerSpec(
        dataset=iterator._dataset,
        iterable=is_stream,
        batched=iterator._auto_collation,
        collate_fn=iterator._collate_fn,
        drop_last=iterator._drop_last,
        base_seed=iterator._base_seed,
        worker_init_fn=worker_init_fn,
        workers=workers,
        on_error=loader.on_error,
        sends_state=most_restarts > 0 and is_stream and loader.seed is None,
    )
    context = context_of(loader.multiprocessing_context)
    with signals_deferred(context), opening_files_for(workers):
        slots = None
        with contextlib.suppress(OSError):  # no memory to be had: everything goes by pipe
            slots = _slots_for(loader, workers, prefetch_factor * workers, by_fork=forks(context))
        return Pool(job, slots, context, most_restarts)


def _slots_for(loader: Any, workers: int, most_tasks: int, *, by_fork: bool) -> Slots:
    """Slots for a pool of workers; those of workers that have ended, if they suit.

    Raises:
        OSError: There is no memory for them.
    """
    number = 2 * most_tasks + SPARE_GRANTS * workers + MOST_LEASES
    limit_bytes = loader.memory_limit
    is_keepable = by_fork and limit_bytes is None
    if limit_bytes is None:
        limit_bytes = default_limit_bytes(reuse.held_bytes())
    stride_bytes = min(
        limit_bytes // (most_tasks + ALWAYS_ROOM_FOR), address_space_limit_bytes() // number
    )
    if not is_keepable:
        reuse.clear()
    slots = reuse.take(workers, number, stride_bytes)
    if slots is not None:
        slots.begin(workers, most_tasks, limit_bytes)
    else:
        arena = Arena.create(number, stride_bytes, workers)
        slots = Slots(
            arena,
            most_tasks,
            MOST_LEASES,
            limit_bytes,
            limits_all=loader.memory_limit is not None,
            is_keepable=is_keepable and arena.is_memory,
        )
    loader._live.arena_user.enter(slots)
    return slots
