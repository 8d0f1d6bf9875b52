"""What a worker process does from its first line to its last.

Runs in: worker.
Takes: orders from its pipe.
Gives: reports, and batches in slots that it chooses among those granted to it.

Whatever goes wrong in user code becomes the report of the task it went wrong in.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import IterDataPipe, graph_settings

from fastload._loading.fetch import EndOfStream, Fetcher, make_fetcher
from fastload._loading.on_error import NothingLeft, Tolerance
from fastload._loading.stopwatch import peak_bytes
from fastload._memory.fake_tensors import real_tensors
from fastload._memory.granted import Grants
from fastload._memory.layout import Layout
from fastload._memory.write import LeafRef, SlotPlace, write_batch
from fastload._seeded.loading import DrawnGenerators
from fastload._seeded.own_streams import is_own_stream
from fastload._seeded.pass_fetcher import make_pass_fetcher
from fastload._system import pipes, signals
from fastload._torch_private import set_thread_name
from fastload._torch_private import worker_module as torch_worker
from fastload._wire import exceptions, stacks
from fastload._wire.channel import Receiver, send
from fastload._wire.indices import count, unpack
from fastload._wire.messages import (
    Begin,
    Cancel,
    Cancelled,
    Empty,
    Ended,
    Failed,
    Loaded,
    Report,
    SeededBegin,
    Skip,
    Stamps,
    Task,
    decode,
    encode,
)
from fastload._wire.shipment import SharedPickle
from fastload._worker import lifeline
from fastload._worker.allocator import keep_freed_memory
from fastload._worker.job import WorkerEnds, WorkerSpec, empty_spec
from fastload._worker.seeding import seed_worker
from fastload.collate.inplace import keep_results_private, make_collate
from fastload.datasets.ranks_and_workers import epoch_of
from fastload.errors import annotate

LONGEST_SKELETON_BYTES = 1 << 14
"""A longer skeleton lies in the slot, behind the leaves; a pipe holds only 64 KiB."""

NOT_IMPORTABLE = (
    "A worker that is started by spawn or forkserver imports what it works with, and what was "
    "defined in a notebook, at a prompt or by `python -c` can't be imported: define the dataset, "
    "collate_fn and worker_init_fn in a module (a .py file), or use "
    "multiprocessing_context='fork'"
)

MEMORY_EVERY = 32
"""Batches from one look at a worker's memory to the next."""


def work(ends: WorkerEnds, content: WorkerSpec | SharedPickle) -> None:
    """Be a worker: the target of the worker process.

    Raises:
        RuntimeError: This is the process of the consumer. Nothing was changed in it.
    """
    if os.getpid() == ends.consumer_pid:
        raise RuntimeError(
            f"worker {ends.worker_id} was started in the training process itself (process "
            f"{ends.consumer_pid}); multiprocessing_context must start processes of their own"
        )
    gc.freeze()  # a collection would copy every page with an object of the training process
    lifeline.arm(ends.lifeline.number)
    if ends.stacks is not None:
        stacks.arm(ends.stacks.number)
    signals.settle_in_worker()
    pipes.look_for_native_handler()
    broken: BaseException | None = None
    try:
        spec: WorkerSpec = content.open() if isinstance(content, SharedPickle) else content
    except BaseException as error:  # noqa: BLE001  (it becomes the report of each task)
        annotate(error, f"while worker {ends.worker_id} unpickled the dataset")
        if isinstance(error, AttributeError) and "__main__" in str(error):
            annotate(error, NOT_IMPORTABLE)
        broken, spec = error, empty_spec()
    # A fork copies the mode of the thread that forked; the consumer makes batches fake itself.
    with real_tensors(), contextlib.suppress(BrokenPipeError):  # the consumer no longer listens
        WorkerLoop(ends, spec, broken).serve()


class WorkerLoop:
    """The loop of one worker and what it keeps from one order to the next."""

    def __init__(
        self, ends: WorkerEnds, spec: WorkerSpec, broken: BaseException | None = None
    ) -> None:
        self._ends = ends
        self._spec = spec
        self._orders = Receiver(ends.orders.number)
        self._queue: deque[Any] = deque()
        if ends.arena is not None:
            ends.arena.forget_faults()
        self._grants = Grants(ends.arena, ends.worker_id)
        self._places: dict[int, SlotPlace] = {}
        self._fetchers: dict[int, Fetcher | BaseException] = {}
        self._ended: set[int] = set()
        self._last: tuple[Layout | None, bytes | None] | None = None
        self._collate = make_collate(spec.collate_fn)
        self._tolerance = None if spec.on_error == "raise" else Tolerance(spec.on_error)
        self._loads = 0
        self._sent_only_tensors = True
        self._skeleton = b""
        self._attached: list[Any] = []
        self._broken = broken
        self._dataset = spec.dataset
        self._epoch: int | None = None
        self._drawn: DrawnGenerators | None = None
        try:
            self._prepare()
        except BaseException as error:  # noqa: BLE001  (it becomes the report of each task)
            self._broken = error

    def _prepare(self) -> None:
        spec, worker_id = self._spec, self._ends.worker_id
        set_thread_name("pt_data_worker")
        torch.set_num_threads(1)
        keep_freed_memory()
        seed = seed_worker(spec.base_seed, worker_id)
        keep_results_private()
        torch_worker._worker_info = torch_worker.WorkerInfo(
            id=worker_id, num_workers=spec.workers, seed=seed, dataset=spec.dataset
        )
        if spec.worker_init_fn is not None:
            try:
                spec.worker_init_fn(worker_id)
            except BaseException as error:
                annotate(error, f"in worker_init_fn of worker {worker_id}")
                raise

    def serve(self) -> None:
        """Carry out orders until told to stop or until the consumer's end closes."""
        while True:
            is_idle = not self._queue
            if is_idle and self._orders.is_closed:
                return
            if is_idle:
                self._orders.wait()
            if is_idle or self._orders.is_ready:
                self._take_orders()
                continue
            order = self._queue.popleft()
            if isinstance(order, Task):
                self._carry_out(order)
            elif isinstance(order, Begin):
                self._begin(order)
            else:
                self._wait_until_unneeded()
                return

    def _wait_until_unneeded(self) -> None:
        """Stay until the epoch's end if batches may refer to what ends with this process.

        A connection is fetched from here when its batch is unpickled; a string may be the name of
        a file that is deleted here at exit.
        """
        while not self._sent_only_tensors and not self._orders.is_closed:
            self._orders.wait()
            self._orders.receive()

    def _take_orders(self) -> None:
        for frame in self._orders.receive():
            order = decode(frame)
            if isinstance(order, Cancel):
                self._cancel(order)
            else:
                self._queue.append(order)

    def _cancel(self, order: Cancel) -> None:
        """Forget a run at once, ahead of the tasks that wait in the queue."""
        run = order.run
        self._queue = deque(order for order in self._queue if getattr(order, "run", None) != run)
        self._fetchers.pop(run, None)
        self._ended.discard(run)
        if not order.is_over:
            self._report(Cancelled(run))

    def _begin(self, order: Begin) -> None:
        if self._broken is not None:
            return
        spec = self._spec
        try:
            if order.shared_seed is not None and isinstance(self._dataset, IterDataPipe):
                generator = torch.Generator()
                generator.manual_seed(order.shared_seed)
                self._dataset = graph_settings.apply_random_seed(self._dataset, generator)
            if order.seeded is not None:
                self._fetchers[order.run] = self._make_seeded_fetcher(order.seeded)
                return
            self._set_epoch(order.epoch)
            self._fetchers[order.run] = make_fetcher(
                self._dataset,
                iterable=spec.iterable,
                batched=spec.batched,
                collate=self._collate,
                drop_last=spec.drop_last,
                tolerance=self._tolerance,
                state=None if order.dataset_state is None else pickle.loads(order.dataset_state),
            )
        except BaseException as error:  # noqa: BLE001  (it becomes the report of each task)
            self._fetchers[order.run] = error

    def _make_seeded_fetcher(self, begin: SeededBegin) -> Fetcher:
        spec = self._spec
        if self._drawn is None:
            self._drawn = DrawnGenerators(self._dataset, spec.collate_fn, everything=not begin.redo)
        if spec.iterable and not is_own_stream(self._dataset):
            # This worker alone reads the stream, so the dataset must not take a part of it.
            torch_worker._worker_info = None
        elif not spec.iterable and hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(begin.epoch)
        return make_pass_fetcher(
            self._dataset,
            begin,
            self._drawn,
            iterable=spec.iterable,
            batched=spec.batched,
            collate=self._collate,
            collate_fn=spec.collate_fn,
            tolerance=self._tolerance,
        )

    def _set_epoch(self, epoch: int | None) -> None:
        """Set what was set in the consumer; a dataset that counts epochs itself is left alone."""
        if self._epoch is None:
            self._epoch = epoch_of(self._dataset)
        if epoch is not None and epoch != self._epoch:
            self._epoch = epoch
            self._dataset.set_epoch(epoch)

    def _carry_out(self, task: Task) -> None:
        slot = self._grants.take()
        try:
            if task.run in self._ended:
                raise EndOfStream
            report: Report = self._load(task, slot)
        except EndOfStream:
            self._ended.add(task.run)
            report = Ended(task.run, task.sequence, slot)
        except NothingLeft:
            report = Empty(task.run, task.sequence, slot, self._take_skipped())
        except BaseException as error:  # noqa: BLE001  (whatever it is, the consumer raises it)
            report = Failed(task.run, task.sequence, slot, _packed(error))
            self._attached = []
        self._report(report, self._attached)
        self._attached = []

    def _load(self, task: Task, slot: int) -> Loaded:
        fetcher = self._fetchers[task.run] if self._broken is None else self._broken
        if isinstance(fetcher, BaseException):
            raise fetcher
        started_ns, started_cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        place = self._places.get(slot)
        if place is None:
            place = self._places[slot] = SlotPlace(self._ends.arena, slot)
        place.empty()
        indices = unpack(task.indices)
        batch = fetcher.fetch(indices, place)
        collated_ns = time.monotonic_ns()
        layout, skeleton = write_batch(batch, place)
        self._attached, place.attached = place.attached, []  # nothing else may keep the batch
        if skeleton != self._skeleton:  # which says what the batch is made of
            self._skeleton = skeleton
            self._sent_only_tensors = self._sent_only_tensors and _holds_only_tensors(batch)
        del batch
        samples, watch = count(indices) if self._spec.batched else 1, fetcher.watch
        watch.note(samples, watch.fetched_ns - started_ns)
        self._loads += 1
        stamps = (
            samples,
            started_ns,
            watch.fetched_ns,
            collated_ns,
            time.monotonic_ns(),
            watch.fetch_cpu_ns - started_cpu_ns,
            time.thread_time_ns() - started_cpu_ns,
            watch.slowest,
            watch.slowest_ns,
            peak_bytes() if self._loads % MEMORY_EVERY == 1 else 0,
        )
        return self._loaded(task, slot, place, layout, skeleton, stamps)

    def _take_skipped(self) -> tuple[Skip, ...]:
        return () if self._tolerance is None else self._tolerance.take_skipped()

    def _state(self, run: int) -> bytes | None:
        fetcher = self._fetchers[run] if self._spec.sends_state else None
        source = None if fetcher is None else cast("Fetcher", fetcher).source
        return None if source is None else source.pickled()

    def _loaded(
        self,
        task: Task,
        slot: int,
        place: SlotPlace,
        layout: Layout | None,
        skeleton: bytes | None,
        stamps: Stamps,
    ) -> Loaded:
        state = self._state(task.run)  # which may raise: then nothing is sent
        skipped = self._take_skipped()
        skeleton_at = None
        if (layout, skeleton) == self._last:
            layout = skeleton = None
        elif skeleton is not None and len(skeleton) > LONGEST_SKELETON_BYTES:
            self._last = None
            skeleton_at = _put_behind(place, skeleton)
            if skeleton_at is None:
                self._attached.append(skeleton)
            skeleton = None
        else:
            self._last = layout, skeleton
        return Loaded(
            task.run,
            task.sequence,
            slot,
            place.used_bytes,
            stamps,
            layout,
            skeleton,
            skeleton_at,
            state,
            skipped,
        )

    def _report(self, report: Report, attached: Sequence[Any] = ()) -> None:
        send(self._ends.reports.number, encode(report), attached)


def _packed(error: BaseException) -> bytes:
    """An exception for the consumer; the one from outside that keeps it from being packed."""
    try:
        return exceptions.pack(error)
    except BaseException as raised:  # noqa: BLE001  (its context is the other)
        return exceptions.pack(raised)


def _put_behind(place: SlotPlace, skeleton: bytes) -> tuple[int, int] | None:
    """Write a long skeleton behind the leaves; returns where it lies, None if there is no room."""
    offset = place.reserve(len(skeleton))
    if offset is None:
        return None
    place.memory.data[offset : offset + len(skeleton)] = skeleton
    return offset, len(skeleton)


def _holds_only_tensors(batch: Any) -> bool:
    """Whether all a batch says is numbers: dict keys are the same in every process."""
    seen: set[int] = set()
    ahead = [batch]
    while ahead:
        each = ahead.pop()
        kind = type(each)
        if kind in (dict, list, tuple):
            if id(each) not in seen:  # a container may hold itself
                seen.add(id(each))
                ahead += each.values() if kind is dict else each
        elif kind not in (Tensor, LeafRef):
            return False
    return True
