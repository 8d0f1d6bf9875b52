"""What a worker process does from its first line to its last.

Runs in: worker.
Takes: orders from its pipe.
Gives: reports, and batches in slots that it chooses among those granted to it.

Whatever goes wrong in user code becomes the report of the task it went wrong in.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pickle
import time
from collections import deque
from typing import Any, cast

import torch
from torch.utils.data import IterDataPipe, graph_settings

from fastload._loading.concurrent import Concurrency
from fastload._loading.crew import Crew
from fastload._loading.fetch import Fetcher, make_fetcher
from fastload._loading.on_error import Tolerance
from fastload._memory.fake_tensors import real_tensors
from fastload._memory.granted import Grants
from fastload._memory.write import SlotPlace
from fastload._seeded.loading import (
    DrawnGenerators,
    make_collating_fetcher,
    make_seeded_fetcher,
)
from fastload._seeded.own_streams import is_own_stream
from fastload._seeded.pass_fetcher import make_pass_fetcher
from fastload._seeded.seeds import EpochDraws
from fastload._seeded.undrawn import concurrency_of
from fastload._system import pipes, signals
from fastload._torch_private import set_thread_name
from fastload._torch_private import worker_module as torch_worker
from fastload._wire import stacks
from fastload._wire.channel import Receiver
from fastload._wire.indices import count, unpack
from fastload._wire.messages import (
    Begin,
    Cancel,
    Cancelled,
    Loaded,
    SeededBegin,
    Task,
    decode,
)
from fastload._wire.shipment import SharedPickle
from fastload._wire.task_queue import SharedTask, TaskSource
from fastload._worker import lifeline
from fastload._worker.allocator import keep_freed_memory
from fastload._worker.answers import Answers
from fastload._worker.job import WorkerEnds, WorkerSpec, empty_spec
from fastload._worker.parts import BatchParts, SlotParts, keep_samples
from fastload._worker.seeding import seed_worker
from fastload.collate.inplace import keep_results_private, keeps_no_sample, make_collate
from fastload.datasets.ranks_and_workers import epoch_of
from fastload.errors import annotate

NOT_IMPORTABLE = (
    "A worker that is started by spawn or forkserver imports what it works with, and what was "
    "defined in a notebook, at a prompt or by `python -c` can't be imported: define the dataset, "
    "collate_fn and worker_init_fn in a module (a .py file), or use "
    "multiprocessing_context='fork'"
)


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
        loop = WorkerLoop(ends, spec, broken)
        loop.serve()
        loop.crew.close()


class WorkerLoop:
    """The loop of one worker and what it keeps from one order to the next."""

    def __init__(
        self, ends: WorkerEnds, spec: WorkerSpec, broken: BaseException | None = None
    ) -> None:
        self._ends = ends
        self._spec = spec
        self._orders = Receiver(ends.orders.number)
        self._queue: deque[Any] = deque()
        self._shared = None if ends.queue is None else ends.queue.open(ends.orders.number)
        self._taken: SharedTask | None = None
        self._newest_run = -1
        self._begun: set[int] = set()
        self._is_dismissed = False
        if ends.arena is not None:
            ends.arena.forget_faults()
        self._grants = Grants(ends.arena, ends.worker_id)
        self._places: dict[int, SlotPlace] = {}
        self._fetchers: dict[int, Fetcher | BaseException] = {}
        self._collate = make_collate(spec.collate_fn)
        self._tolerance = None if spec.on_error == "raise" else Tolerance(spec.on_error)
        self._answers = Answers(ends.reports.number, self._tolerance, self._state)
        self._parts: BatchParts | None = None
        if self._shared is not None and ends.arena is not None:
            self._parts = BatchParts(
                self._shared,
                ends.arena,
                self._answers,
                self._part_fetchers,
                functools.partial(keeps_no_sample, spec.collate_fn),
            )
        self._seeded: dict[int, SeededBegin] = {}
        self._broken = broken
        self._dataset = spec.dataset
        self._epoch: int | None = None
        self._drawn: DrawnGenerators | None = None
        self.crew = Crew()
        self._concurrency: Concurrency | None = None
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
        """Carry out orders, and shared tasks, until told to stop or the consumer's end closes."""
        while True:
            if self._queue:
                if self._orders.is_ready:
                    self._take_orders()
                else:
                    self._obey(self._queue.popleft())
            elif self._orders.is_closed:
                return
            elif self._is_dismissed:
                self._wait_until_unneeded()
                return
            else:
                self._take_something()

    def _take_something(self) -> None:
        """Wait for orders, and carry out a shared task if there is one."""
        if self._shared is None:
            self._orders.wait()
            self._take_orders()
        elif self._orders.is_ready:
            self._take_orders()
        elif not self._takes_from(self._shared):
            self._shared.wait()

    def _obey(self, order: Any) -> None:
        """Carry out one order of the consumer's."""
        if isinstance(order, Task):
            self._carry_out(order, self._grants.take())
        elif isinstance(order, SharedTask):
            self._carry_out_shared(order)
        elif isinstance(order, Begin):
            self._newest_run = max(self._newest_run, order.run)
            self._begun.add(order.run)
            self._begin(order)
        else:
            self._is_dismissed = True

    def _takes_from(self, shared: TaskSource) -> bool:
        """Take a shared task and carry it out; False if there is none.

        One of a run that has not begun here is kept: its ``Begin`` is on its way in the pipe.
        """
        task = self._taken or shared.take()
        self._taken = None
        if task is None:
            return False
        if task.run > self._newest_run:
            self._taken = task
            self._orders.wait()
            self._take_orders()
        else:
            self._carry_out_shared(task)
        return True

    def _carry_out_shared(self, task: SharedTask) -> None:
        if task.run not in self._begun:  # cancelled; or cancelled before this worker started
            return
        if task.parts == 1:
            self._carry_out(Task(task.run, task.sequence, task.indices), task.slot)
        elif self._parts is not None:
            self._parts.carry_out(task)

    def _wait_until_unneeded(self) -> None:
        """Stay until the epoch's end if batches may refer to what ends with this process.

        A connection is fetched from here when its batch is unpickled; a string may be the name of
        a file that is deleted here at exit.
        """
        while not self._answers.hold_only_tensors and not self._orders.is_closed:
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
        """Forget a run at once, ahead of the tasks that wait in the queue.

        Its ``Begin`` may be among them, and tasks of it come to whoever is idle all the same.
        """
        run = order.run
        self._newest_run = max(self._newest_run, run)
        self._begun.discard(run)
        self._queue = deque(order for order in self._queue if getattr(order, "run", None) != run)
        self._fetchers.pop(run, None)
        self._seeded.pop(run, None)
        self._answers.forget(run)
        if self._parts is not None:
            self._parts.forget(run)
        if not order.is_over:
            self._answers.report(Cancelled(run))

    def _part_fetchers(self, run: int, samples: SlotParts) -> tuple[Fetcher, Fetcher]:
        """Make what loads the samples of a part, and what collates ``samples``, those of all."""
        if self._broken is not None:
            raise self._broken
        begin = self._seeded[run]
        assert self._drawn is not None
        draws = EpochDraws(begin.seed, begin.epoch)
        loading = make_seeded_fetcher(
            self._dataset,
            draws,
            self._drawn,
            batched=True,
            collate=keep_samples,
            tolerance=self._tolerance,
            concurrency=self._concurrency,
        )
        return loading, make_collating_fetcher(samples, draws, self._drawn, self._collate)

    def _begin(self, order: Begin) -> None:
        if self._broken is not None:
            return
        spec = self._spec
        try:
            if order.shared_seed is not None and isinstance(self._dataset, IterDataPipe):
                generator = torch.Generator()
                generator.manual_seed(order.shared_seed)
                self._dataset = graph_settings.apply_random_seed(self._dataset, generator)
            self._allow_concurrency(is_seeded=order.seeded is not None)
            if order.seeded is not None:
                self._seeded[order.run] = order.seeded
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
                concurrency=self._concurrency,
            )
        except BaseException as error:  # noqa: BLE001  (it becomes the report of each task)
            self._fetchers[order.run] = error

    def _allow_concurrency(self, *, is_seeded: bool) -> None:
        """Find out once whether samples load at a time, and look at the first of them once."""
        spec = self._spec
        if self._concurrency is None and not spec.iterable:
            self._concurrency = concurrency_of(
                self._dataset, spec.concurrent_samples, self.crew, is_seeded=is_seeded
            )

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
            concurrency=self._concurrency,
        )

    def _set_epoch(self, epoch: int | None) -> None:
        """Set what was set in the consumer; a dataset that counts epochs itself is left alone."""
        if self._epoch is None:
            self._epoch = epoch_of(self._dataset)
        if epoch is not None and epoch != self._epoch:
            self._epoch = epoch
            self._dataset.set_epoch(epoch)

    def _carry_out(self, task: Task, slot: int) -> None:
        run, sequence, _ = task
        self._answers.give(run, sequence, slot, lambda: self._load(task, slot))

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
        layout, skeleton = self._answers.write(batch, place)
        del batch
        samples, watch = count(indices) if self._spec.batched else 1, fetcher.watch
        watch.note(samples, watch.fetched_ns - started_ns)
        stamps = (
            samples,
            started_ns,
            watch.fetched_ns,
            collated_ns,
            time.monotonic_ns(),
            watch.fetch_cpu_ns - started_cpu_ns,
            time.thread_time_ns() - started_cpu_ns + watch.elsewhere_cpu_ns,
            watch.slowest,
            watch.slowest_ns,
            self._answers.peak_bytes(),
        )
        return self._answers.loaded(task.run, task.sequence, slot, place, layout, skeleton, stamps)

    def _state(self, run: int) -> bytes | None:
        fetcher = self._fetchers[run] if self._spec.sends_state else None
        source = None if fetcher is None else cast("Fetcher", fetcher).source
        return None if source is None else source.pickled()
