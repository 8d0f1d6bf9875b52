"""Make a pool for a loader: what its workers do, and how many slots of which size they get.

Runs in: consumer.
Takes: a loader's options, and what torch's iterator has read of them.
Gives: a pool whose workers have been started.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

from torch.utils.data import IterDataPipe, MapDataPipe

from fastload._loading.on_error import OnError
from fastload._memory import reuse
from fastload._memory.arena import Arena
from fastload._memory.reuse import ArenaUser
from fastload._memory.slots import SPARE_GRANTS, Slots
from fastload._pool.device_tensors import check_no_device_tensors
from fastload._pool.pool import Pool
from fastload._pool.start import (
    check_room_for,
    context_of,
    forks,
    opening_files_for,
    signals_deferred,
)
from fastload._system.interruptions import own_suppressed
from fastload._system.memory_limits import address_space_limit_bytes, default_limit_bytes
from fastload._torch_private import is_iterable_kind, sharding_worker_init_fn
from fastload._worker.job import WorkerSpec

MOST_LEASES = 8
"""Batches the user may hold without a copy. Training loops hold one or two, trainers up to four."""

ALWAYS_ROOM_FOR = 3
"""Batches beyond those in flight for which the limit on shared memory is divided."""


class PoolLoader(Protocol):
    """What is read of a loader to start its workers."""

    num_workers: int
    worker_init_fn: Any
    multiprocessing_context: Any
    memory_limit: int | None
    max_worker_restarts: int
    on_error: OnError
    concurrent_samples: int
    _stream_seed: int | None

    @property
    def _live(self) -> HoldsArena:
        """What is alive of the loader."""


class HoldsArena(Protocol):
    """Knows which slots the loader uses, so that they stay for its next workers."""

    @property
    def arena_user(self) -> ArenaUser:
        """The loader as a user of slots."""


def make_pool(iterator: Any, loader: PoolLoader, workers: int, prefetch_factor: int) -> Pool:
    """Start workers for an iterator of this loader.

    Raises:
        AssertionError: As torch's, if nothing is to be prefetched.
        OSError: No more files or processes may be open.
        ValueError: The dataset has a tensor on an accelerator, which a forked worker can't use.
    """
    check_prefetch(prefetch_factor)
    is_stream = iterator._dataset_kind == is_iterable_kind
    most_restarts = loader.max_worker_restarts
    spec = WorkerSpec(
        dataset=iterator._dataset,
        iterable=is_stream,
        batched=iterator._auto_collation,
        collate_fn=iterator._collate_fn,
        drop_last=iterator._drop_last,
        base_seed=iterator._base_seed,
        worker_init_fn=init_fn_of(iterator, loader.worker_init_fn),
        workers=workers,
        on_error=loader.on_error,
        sends_state=most_restarts > 0 and is_stream and loader._stream_seed is None,
        concurrent_samples=loader.concurrent_samples,
    )
    context = context_of(loader.multiprocessing_context)
    if forks(context):
        check_no_device_tensors(dataset=spec.dataset, collate_fn=spec.collate_fn)
    with signals_deferred(context), opening_files_for(workers):
        check_room_for(workers)
        slots = None
        with own_suppressed(OSError):  # no memory to be had: everything goes by pipe
            slots = _slots_for(loader, workers, prefetch_factor * workers, by_fork=forks(context))
        try:
            return Pool(
                spec,
                slots,
                context,
                most_restarts,
                shares_tasks=iterator.shares_tasks,
                starts_all=iterator.starts_all,
            )
        except BaseException:
            if slots is not None:
                slots.arena.close_descriptor()
            raise


def check_prefetch(prefetch_factor: int) -> None:
    """Check that workers, processes or threads, have something to do ahead.

    Raises:
        AssertionError: As torch's, if nothing is to be prefetched.
    """
    if prefetch_factor <= 0:
        raise AssertionError(
            "prefetch_factor must be greater than 0 for MultiProcessingDataLoaderIter"
        )


def init_fn_of(iterator: Any, worker_init_fn: Any) -> Any:
    """What each worker of an iterator calls first; it deals torch's data pipes to workers too."""
    if not isinstance(iterator._dataset, IterDataPipe | MapDataPipe):
        return worker_init_fn
    return functools.partial(
        sharding_worker_init_fn, worker_init_fn, iterator._world_size, iterator._rank
    )


def _slots_for(loader: PoolLoader, workers: int, most_tasks: int, *, by_fork: bool) -> Slots:
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
