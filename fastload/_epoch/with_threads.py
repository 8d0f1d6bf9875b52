"""The whole way of a batch with threads as workers.

Runs in: consumer.

    sampler ─▶ Run.request ─▶ order.choose ─▶ team.assign ──queue──▶ thread: fetch, collate
    yours ◀─ pin ◀─ Run.deliver ◀─ order.head ◀─ Mailbox ◀─────────queue── Handed

All but the queues is as with processes: ``WorkersIterator`` and ``Run`` are theirs. A batch is not
written anywhere: what the collate function returned is what arrives, as without workers.
"""

from __future__ import annotations

import threading
import time
from itertools import repeat
from queue import Empty as NothingThere
from typing import Any

import torch

from fastload._epoch import resume
from fastload._epoch.draws import SamplerFailed
from fastload._epoch.loader import Loader
from fastload._epoch.run import Run
from fastload._epoch.with_workers import PersistentWorkers, WorkersIterator
from fastload._loading.dataset_state import load_into_dataset
from fastload._memory.fake_tensors import with_fake_tensors
from fastload._pool.make import check_prefetch, init_fn_of
from fastload._threads.copies import parts_of
from fastload._threads.first_look import DrawsFromProgramError
from fastload._threads.team import ThreadTeam
from fastload._threads.thread_loop import Handed, ThreadSpec
from fastload._torch_private import (
    dispatch_modes,
    function_modes,
    is_iterable_kind,
)
from fastload._wire.messages import Ended, Failed, Loaded
from fastload.stats.counters import Counters

THREAD = "thread"
"""What ``worker_method`` says to get threads."""


class Threads:
    """The way with threads as workers: new ones, or those of the epoch before."""

    def __init__(self, kept: PersistentWorkers | None, *, is_kept: bool) -> None:
        self.began = resume.NEW_WORKERS if kept is None else resume.KEPT_WORKERS
        self.is_kept = is_kept
        self._kept = kept

    def begin(self, loader: Loader) -> ThreadsIterator:
        """Make the epoch's iterator."""
        return ThreadsIterator(loader, self._kept)


def offer(loader: Loader, before: Any) -> Threads | None:
    """Possible where threads are asked for, and where those of the epoch before are kept."""
    if loader.num_workers == 0:
        return None
    kept: PersistentWorkers | None = getattr(before, "kept_workers", None)
    if kept is not None and not kept.is_usable:
        kept = None
    if not goes_on_with_threads(loader, kept):
        return None
    return Threads(kept, is_kept=kept is not None or loader.persistent_workers)


def goes_on_with_threads(loader: Loader, kept: PersistentWorkers | None) -> bool:
    """Whether the workers of an epoch are threads: the kept ones decide, or else the loader."""
    if kept is not None and kept.pool is not None:
        return isinstance(kept.pool, ThreadTeam)
    return loader.worker_method == THREAD


class ThreadsIterator(WorkersIterator):
    """What ``iter(loader)`` gives with threads as workers; by name torch's, as with processes."""

    _pool: ThreadTeam
    _run: ThreadRun

    def _make_pool(self, loader: Loader) -> ThreadTeam:
        workers, prefetch_factor = self._numbers(loader)
        check_prefetch(prefetch_factor)
        is_seeded = self._seeded is not None
        spec = ThreadSpec(
            iterable=self._dataset_kind == is_iterable_kind,
            batched=self._auto_collation,
            drop_last=self._drop_last,
            base_seed=self._base_seed,
            worker_init_fn=init_fn_of(self, loader.worker_init_fn),
            workers=workers,
            on_error=loader.on_error,
            is_seeded=is_seeded,
            device=torch.get_default_device() if function_modes() else None,
            has_gradients=torch.is_grad_enabled(),
        )
        return ThreadTeam(
            spec, parts_of(self._dataset, self._collate_fn, workers, is_seeded=is_seeded)
        )

    def _make_run(
        self, loader: Loader, workers: int, prefetch_factor: int, counters: Counters
    ) -> ThreadRun:
        state = loader._live.take_dataset_state()
        if self._dataset_kind != is_iterable_kind:
            load_into_dataset(self._dataset, state)  # once, for all threads
            state = None
        is_first, in_order = self._pool.is_fresh, loader.in_order
        run = ThreadRun(
            self._pool,
            self._draws,
            self._pipes_seed,
            counters,
            most_tasks=prefetch_factor * workers,
            in_order=in_order,
            ends_pool=not loader.persistent_workers,
            dataset_state=state,
            seeded=self._seeded,
        )
        if is_first and self._seeded is not None:
            run.look_first(self._timeout)
        return run

    def _take(self, sequence: int, result: Any) -> bool:
        """As ever; the usual case in fewer calls."""
        run = self._run
        is_usual = type(result) is Handed and type(result.report) is Loaded
        if not is_usual or result.report.skipped or dispatch_modes():
            return super()._take(sequence, result)
        run.take(sequence)
        self.position.advance()
        self._pending.batch = threading.get_ident(), result.content
        return True


class ThreadRun(Run):
    """A run on threads: a task is a tuple in a queue, and so is what became of it.

    In order, each worker has a queue of results of its own, and the training loop waits at that of
    the worker whose batch is next: so it is woken once a batch at most, and holds the interpreter
    no longer than it must.
    """

    pool: ThreadTeam

    def __init__(self, pool: ThreadTeam, *options: Any, in_order: bool, **more: Any) -> None:
        """Arguments are those of ``Run``."""
        super().__init__(pool, *options, in_order=in_order, **more)
        self._shared = pool.run_of(self._number)
        self._flying = self._shared.flying
        self._inboxes = [worker.loop.inbox for worker in pool.workers]
        if not in_order:
            outboxes = self._shared.outboxes
            outboxes[:] = outboxes[:1] * len(outboxes)

    def look_first(self, timeout_s: float) -> None:
        """Let the first batch be loaded while nobody loads another.

        Raises:
            DrawsFromProgramError: It was drawn for from a generator that threads share.
            LoadingTimeout: It did not come within ``timeout_s`` (0: no limit).
        """
        later = self._most_tasks - 1
        self._most_tasks -= later
        self.request()
        try:
            _, result = self.next(timeout_s)
        except StopIteration:
            return
        finally:
            self._most_tasks += later
        if type(result) is Handed and isinstance(result.content, DrawsFromProgramError):
            raise result.content

    def next(self, timeout_s: float) -> tuple[int, Any]:
        """As ever. That a worker's part of a stream has ended is known when its turn comes."""
        team, arrived = self.pool, self._mailbox.arrived
        while True:
            if team.is_closed or team.guard.depth:
                self._check_pool()
            if self._mailbox.ended:
                self._hear_of_workers()
            sequence = self._order.head()
            if sequence is None:
                raise self._end()
            result = arrived.get(sequence)
            if result is None:
                self._wait_or_tell(sequence, timeout_s)
            elif type(result) is SamplerFailed or type(result.report) is not Ended:
                return sequence, result
            else:
                self._end_worker(sequence, result.worker_id)

    def take(self, sequence: int) -> None:
        """Take the result of a task off; to be called inside the guard."""
        if self.pool.is_closed:
            self.pool.check_open()
        self._order.take(sequence)
        del self._mailbox.arrived[sequence], self._flying[sequence]
        self._taken += 1

    def _end_worker(self, sequence: int, worker_id: int) -> None:
        with self.pool.guard:
            self._order.take(sequence)
            del self._mailbox.arrived[sequence], self._flying[sequence]
            if self._order.is_active(worker_id):
                self._mailbox.ended.append(worker_id)

    def _assign(self, indices: Any, delivering: int | None) -> bool:
        if type(indices) is SamplerFailed:
            return self._put_error(indices)
        team, order = self.pool, self._order
        with team.guard:
            if team.is_closed:
                team.check_open()
            worker_id = order.choose(delivering)
            if worker_id is None:
                return False
            sequence = order.send(worker_id)
            self._flying[sequence] = worker_id, indices, time.monotonic_ns()
            # A sampler may use its list again.
            sent = indices[:] if type(indices) is list else indices
            self._inboxes[worker_id].put((self._shared, sequence, sent))
            self._draws.used()
            self._asked += 1
        return True

    def _wait(self, sequence: int, timeout_s: float | None) -> bool:
        outbox = self._shared.outboxes[self._order.owner(sequence)]
        ready = outbox.qsize() or 1
        try:
            # One call into C that takes and stores: no handler of a signal runs in between.
            self._mailbox.arrived.update(map(outbox.get, repeat(True, ready), repeat(timeout_s)))
        except NothingThere:
            return False
        return True

    def _open(self, sequence: int, result: Handed) -> tuple[Any, BaseException | None]:
        del self._flying[sequence]
        _, report, content = result
        if type(report) is Failed:
            return None, content
        if dispatch_modes():
            return with_fake_tensors(lambda: content), None
        return content, None
