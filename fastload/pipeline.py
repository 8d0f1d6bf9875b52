"""The whole way of a batch with workers.

Runs in: consumer.

    sampler ─▶ Run.request ─▶ order.choose ─▶ pool.assign ──pipe──▶ worker: fetch, collate, write
    yours ◀─ pin ◀─ unwrap ◀─ order.next ◀─ Run.accept ◀─ pool.pump ◀──pipe── Loaded

``inline`` is the same way in one process, and the specification of this one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch.utils.data import IterDataPipe, MapDataPipe

from fastload.delivery.order import CONSUMER, END, WAIT, AsCompleted, InOrder
from fastload.errors import (
    ForeignProcessError,
    LoadingInterrupted,
    LoadingTimeout,
    WorkerDied,
)
from fastload.internals import (
    BaseIterator,
    MultiProcessingIterator,
    is_iterable_kind,
    pin_memory,
    profiler_enabled,
    sharding_worker_init_fn,
)
from fastload.memory.arena import Arena
from fastload.memory.budget import address_space_limit_bytes, default_limit_bytes
from fastload.memory.leases import unwrap
from fastload.memory.slots import Slots
from fastload.messages import Ended, Failed, Loaded
from fastload.stats import Counters
from fastload.workers.exceptions import reraisable, unpack
from fastload.workers.loop import Job
from fastload.workers.pool import Pool, describe_exit
from fastload.workers.start import context_of

MOST_LEASES = 8
"""Batches the user may hold without a copy. Training loops hold one or two, trainers up to four."""

ALWAYS_ROOM_FOR = 3
"""Batches beyond those in flight for which the limit on shared memory is divided."""


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
            if not pool.pump(timeout_s or None) and pool.is_open:
                raise self._timeout(sequence, timeout_s)

    def deliver(self, sequence: int, worker_id: int, report: Any) -> tuple[Any, Any]:
        """The batch of a report, or None and the exception that took its place."""
        if worker_id == CONSUMER:
            return None, report
        self.pool.deliver(self._number, sequence)
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
            f"batch {sequence}, dataset indices {task.indices!r}"
            for sequence, task in self.pool.flying(self._number).items()
            if task.worker_id == worker_id
        )
        return WorkerDied(
            f"DataLoader worker {worker_id} (pid {worker.process.pid}) "
            f"{describe_exit(worker.exitcode)} while it had to load: {lost}. If it was killed, "
            f"the machine or container may have run out of memory; if it crashed, look at what "
            f"the dataset does for these indices.",
            worker_id,
            worker.exitcode,
        )

    def _timeout(self, sequence: int, timeout_s: float) -> LoadingTimeout:
        task = self.pool.flying(self._number).get(sequence)
        detail = ""
        if task is not None:
            waited_s = (time.monotonic_ns() - task.sent_ns) / 1e9
            detail = (
                f": worker {task.worker_id} was given batch {sequence} (dataset indices "
                f"{task.indices!r}) {waited_s:.1f} s ago and has not finished it"
            )
        return LoadingTimeout(f"DataLoader timed out after {timeout_s} seconds{detail}")


class Crew(NamedTuple):
    """What persistent workers carry from one epoch to the next: themselves and their seeds."""

    pool: Pool
    state: dict[str, Any]


class PipelineIterator(MultiProcessingIterator):  # type: ignore[misc]  # its base is untyped
    """What ``iter(loader)`` gives with workers.

    It is torch's iterator class in name, for trainers that test for it, and starts none of its
    machinery. Several threads may share one: each batch goes to exactly one of them.
    """

    def __init__(self, loader: Any, crew: Crew | None = None) -> None:
        """Begin an epoch: with new workers, or with those of an earlier epoch."""
        if crew is None:
            BaseIterator.__init__(self, loader)
            crew = Crew(_make_pool(self, loader), dict(vars(self)))
        self.__dict__.update(crew.state)
        BaseIterator._reset(self, loader)
        self.crew = crew
        pool = crew.pool
        self._timeout = loader.timeout
        self._pool = pool
        self._persistent_workers = loader.persistent_workers
        self._profile_name = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
        self._counters = Counters()
        self._failure: BaseException | None = None
        self._is_finished = False
        most_tasks = loader.prefetch_factor * loader.num_workers
        make_order = InOrder if loader.in_order else AsCompleted
        order = make_order(loader.num_workers, most_tasks)
        with pool.lock:
            self._run = Run(pool, order, self._sampler_iter, self._shared_seed)
            for _ in range(most_tasks):
                self._run.request()

    def __next__(self) -> Any:
        if self._IterableDataset_len_called is None and not profiler_enabled():
            batch = self._next_data()
            self._num_yielded += 1
            return batch
        return super().__next__()

    def _next_data(self) -> Any:
        pool = self._pool
        if pool.owner != os.getpid():
            raise ForeignProcessError(
                f"this iterator belongs to process {pool.owner} and its workers; process "
                f"{os.getpid()} must call iter(loader) for an iterator of its own"
            )
        counters = self._counters
        started_ns = time.monotonic_ns()
        with pool.lock:
            if self._failure is not None:
                raise self._failure
            if self._is_finished:
                raise StopIteration
            try:
                sequence, (worker_id, report) = self._run.next(self._timeout)
            except StopIteration:
                self._is_finished = True
                if not self._persistent_workers:
                    pool.close()
                raise
            except (WorkerDied, LoadingInterrupted) as error:
                self._failure = error
                pool.close()
                raise
            counters.waited(time.monotonic_ns() - started_ns)
            self._run.request()
            batch, raised = self._run.deliver(sequence, worker_id, report)
            pool.is_busy = False
            if raised is not None:
                raise reraisable(raised)
            counters.delivered(report)
        if self._pin_memory:
            batch = pin_memory(batch, self._pin_memory_device)
        return batch

    @property
    def _workers(self) -> list[Any]:
        return [worker.process for worker in self._pool.workers]

    def close(self) -> None:
        """End the workers now."""
        self._pool.close()

    _shutdown_workers = close  # what trainers call of torch's iterator

    def __del__(self) -> None:
        """Nothing: torch's would touch state that is not there; the pool ends by itself."""


def _make_pool(iterator: Any, loader: Any) -> Pool:
    if loader.prefetch_factor <= 0:
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
    job = Job(
        dataset=iterator._dataset,
        iterable=iterator._dataset_kind == is_iterable_kind,
        batched=iterator._auto_collation,
        collate_fn=iterator._collate_fn,
        drop_last=iterator._drop_last,
        base_seed=iterator._base_seed,
        worker_init_fn=worker_init_fn,
        workers=loader.num_workers,
    )
    most_tasks = loader.prefetch_factor * loader.num_workers
    limit_bytes = loader.memory_limit
    if limit_bytes is None:
        limit_bytes = default_limit_bytes()
    arena, slots = None, None
    number = most_tasks + loader.num_workers + MOST_LEASES
    stride_bytes = min(
        limit_bytes // (most_tasks + ALWAYS_ROOM_FOR), address_space_limit_bytes() // number
    )
    with contextlib.suppress(OSError):  # no memory to be had: everything goes by pipe
        arena = Arena.create(number, stride_bytes)
        slots = Slots(arena, loader.num_workers, most_tasks, MOST_LEASES, limit_bytes)
    return Pool(job, arena, slots, context_of(loader.multiprocessing_context))
