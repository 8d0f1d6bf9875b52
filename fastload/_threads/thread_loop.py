"""What a worker thread does from its first line to its last.

Runs in: threads.
Takes: tasks from its queue.
Gives: batches in ordinary memory, as they are, to the queue of the task's run.

Whatever goes wrong in user code becomes the result of the task it went wrong in. Nothing here
refers to an iterator, nor keeps a task, a batch or an error that was given away: an iterator that
nobody holds is gone at once, whatever its threads do.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, NamedTuple, cast

import torch
from torch.utils.data import IterDataPipe, MapDataPipe, graph_settings

from fastload._loading.dataset_state import DatasetState
from fastload._loading.fetch import EndOfStream, Fetcher, make_fetcher
from fastload._loading.on_error import NothingLeft, OnError, Tolerance
from fastload._memory.granted import NO_SLOT
from fastload._memory.write import HEAP
from fastload._seeded.loading import DrawnGenerators
from fastload._seeded.own_streams import is_own_stream
from fastload._seeded.pass_fetcher import make_pass_fetcher
from fastload._threads.copies import ThreadParts
from fastload._threads.first_look import DrawsFromProgramError, load_alone
from fastload._threads.worker_info import become_worker
from fastload._torch_private import set_thread_name, thread_generators
from fastload._torch_private import worker_module as torch_worker
from fastload._wire import exceptions
from fastload._wire.indices import count
from fastload._wire.messages import Empty, Ended, Failed, Loaded, SeededBegin, Skip, Stamps
from fastload.collate.inplace import make_collate
from fastload.errors import annotate


@dataclass(frozen=True)
class ThreadSpec:
    """What all threads of a team have in common.

    ``device`` is the default device of the thread that began the epoch, None for torch's own;
    ``has_gradients`` is whether it records operations. In torch each thread has its own of both.
    """

    iterable: bool
    batched: bool
    drop_last: bool
    base_seed: int
    worker_init_fn: Callable[[int], None] | None
    workers: int
    on_error: OnError
    is_seeded: bool
    device: torch.device | None
    has_gradients: bool


class Handed(NamedTuple):
    """What became of a task, as a thread hands it to the training loop.

    ``report`` says it in the words of worker processes; ``content`` is the batch or the exception.
    """

    worker_id: int
    report: Any
    content: Any = None


Outbox = SimpleQueue[tuple[int, Any]]
"""Numbers of tasks and what became of them."""


class SharedRun:
    """What the training loop and the threads both know of one pass of one iterator.

    Attributes:
        outboxes: Of each worker; with ``in_order=False`` the same one for all.
        flying: The tasks that were not delivered: worker, indices, and when they were sent, in ns.
        is_dropped: Nobody wants the rest.
    """

    def __init__(
        self,
        workers: int,
        shared_seed: int | None,
        dataset_state: DatasetState | None,
        seeded: SeededBegin | None,
        *,
        looks: bool,
    ) -> None:
        """``looks`` says that the first batch is loaded alone, to see whether it draws."""
        self.outboxes: list[Outbox] = [SimpleQueue() for _ in range(workers)]
        self.flying: dict[int, tuple[int, Any, int]] = {}
        self.is_dropped = False
        self.shared_seed = shared_seed
        self.dataset_state = dataset_state
        self.seeded = seeded
        self.looks = looks
        self.fetchers: list[Fetcher | None] = [None] * workers
        self.broken: dict[int, bytes] = {}
        self.ended: set[int] = set()

    def wake(self) -> None:
        """Let whoever waits for a batch look around."""
        for outbox in self.outboxes:
            outbox.put((WOKEN, None))


_changing_pipes = threading.Lock()
"""torch walks over the graph of a data pipe with hooks that all of its pipes have in common."""

WOKEN = -1
"""Stands where the number of a task would be; only a closed team says it."""


class ThreadLoop:
    """The loop of one thread and what it keeps from one task to the next.

    Attributes:
        inbox: A run, the number of a task in it, and its indices; None: leave.
        thread: Daemonic: a program that ends does not wait for it.
    """

    def __init__(self, spec: ThreadSpec, worker_id: int, parts: ThreadParts) -> None:
        self.inbox: SimpleQueue[tuple[SharedRun, int, Any] | None] = SimpleQueue()
        self.thread = threading.Thread(
            target=self._serve, name=f"fastload worker {worker_id}", daemon=True
        )
        self._is_over = False
        self._spec = spec
        self._worker_id = worker_id
        self._parts = parts
        self._dataset = parts.dataset
        is_pipe = isinstance(self._dataset, IterDataPipe | MapDataPipe)
        self._in_turn: Any = _changing_pipes if is_pipe else contextlib.nullcontext()
        self._collate = make_collate(parts.collate_fn)
        self._tolerance = None if spec.on_error == "raise" else Tolerance(spec.on_error)
        self._drawn: DrawnGenerators | None = None
        self._broken: bytes | None = None
        self._cpu_ns = 0  # the thread's, when it had done its last batch: it has hardly moved since

    def start(self) -> None:
        """Begin to work."""
        running.add(self)
        try:
            self.thread.start()
        except BaseException:
            running.discard(self)
            raise

    @property
    def is_alive(self) -> bool:
        """Whether the thread has begun and has not left."""
        return self.thread.is_alive()

    def end(self) -> None:
        """Leave as soon as the call that runs is over; tasks that wait are forgotten."""
        self._is_over = True
        self.inbox.put(None)

    def _serve(self) -> None:
        try:
            self._prepare()
            while self._serve_one():
                pass
        finally:
            running.discard(self)

    def _prepare(self) -> None:
        spec, worker_id = self._spec, self._worker_id
        try:
            set_thread_name("pt_data_worker")
            torch.set_grad_enabled(spec.has_gradients)
            if spec.device is not None:
                torch.set_default_device(spec.device)
            become_worker(self._info())
            if spec.worker_init_fn is not None:
                with self._in_turn:
                    spec.worker_init_fn(worker_id)
        except BaseException as error:  # noqa: BLE001  (it becomes the result of each task)
            annotate(error, f"in worker_init_fn of worker {worker_id}")
            self._broken = exceptions.pack(error)

    def _info(self) -> Any:
        """What ``get_worker_info()`` says here; with ``seed=``, no generators are the thread's."""
        spec, worker_id = self._spec, self._worker_id
        return torch_worker.WorkerInfo(
            id=worker_id,
            num_workers=spec.workers,
            seed=spec.base_seed + worker_id,
            dataset=self._dataset,
            worker_method="thread",
            rng=None if spec.is_seeded else thread_generators(spec.base_seed, worker_id),
        )

    def _serve_one(self) -> bool:
        """Carry out the next task; False if there will be none."""
        order = self.inbox.get()
        if order is None or self._is_over:
            return False
        run, sequence, indices = order
        if not run.is_dropped:
            outcome = self._carry_out if not run.looks else self._carry_out_alone
            run.outboxes[self._worker_id].put((sequence, outcome(run, sequence, indices)))
        return True

    def _carry_out_alone(self, run: SharedRun, sequence: int, indices: Any) -> Handed:
        """The first batch of a seeded team, which must not draw from the program's generators."""
        run.looks = False
        try:
            return load_alone(
                lambda: self._carry_out(run, sequence, indices),
                is_repeatable=not self._spec.iterable,
            )
        except DrawsFromProgramError as error:
            return self._failed(sequence, error)

    def _carry_out(self, run: SharedRun, sequence: int, indices: Any) -> Handed:
        worker_id = self._worker_id
        try:
            if worker_id in run.ended:
                raise EndOfStream
            return self._load(run, sequence, indices)
        except EndOfStream:
            run.ended.add(worker_id)
            return Handed(worker_id, Ended(0, sequence, NO_SLOT))
        except NothingLeft:
            return Handed(worker_id, Empty(0, sequence, NO_SLOT, self._take_skipped()))
        except BaseException as error:  # noqa: BLE001  (whatever it is, the training loop raises it)
            return self._failed(sequence, error)

    def _failed(self, sequence: int, error: BaseException) -> Handed:
        annotate(error, f"in fastload worker {self._worker_id}, batch {sequence}")
        return Handed(self._worker_id, Failed(0, sequence, NO_SLOT, b""), error)

    def _load(self, run: SharedRun, sequence: int, indices: Any) -> Handed:
        fetcher = run.fetchers[self._worker_id] or self._open(run)
        started_ns, started_cpu_ns = time.monotonic_ns(), self._cpu_ns or time.thread_time_ns()
        batch = fetcher.fetch(indices, HEAP)
        collated_ns, self._cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        samples, watch = count(indices) if self._spec.batched else 1, fetcher.watch
        watch.note(samples, watch.fetched_ns - started_ns)
        # fmt: off
        stamps: Stamps = (
            samples, started_ns, watch.fetched_ns, collated_ns, collated_ns,
            watch.fetch_cpu_ns - started_cpu_ns, self._cpu_ns - started_cpu_ns,
            watch.slowest, watch.slowest_ns, 0,
        )
        # fmt: on
        skipped = () if self._tolerance is None else self._tolerance.take_skipped()
        report = _new(Loaded, (0, sequence, NO_SLOT, 0, stamps, *_NO_LAYOUT, skipped, ()))
        return cast("Handed", _new(Handed, (self._worker_id, report, batch)))

    def _take_skipped(self) -> tuple[Skip, ...]:
        return () if self._tolerance is None else self._tolerance.take_skipped()

    def _open(self, run: SharedRun) -> Fetcher:
        """Begin to read the dataset for a run; what that raises, each task of it raises.

        An error that is raised again and again is made anew each time: the one that was raised
        before knows who caught it.
        """
        broken = self._broken or run.broken.get(self._worker_id)
        if broken is None:
            try:
                fetcher = run.fetchers[self._worker_id] = self._make_fetcher(run)
            except BaseException as error:  # noqa: BLE001  (raised below)
                broken = run.broken[self._worker_id] = exceptions.pack(error)
            else:
                return fetcher
        raise exceptions.unpack(broken, "where this thread began")

    def _make_fetcher(self, run: SharedRun) -> Fetcher:
        spec = self._spec
        if run.shared_seed is not None and isinstance(self._dataset, IterDataPipe):
            generator = torch.Generator()
            generator.manual_seed(run.shared_seed)
            with self._in_turn:
                self._dataset = graph_settings.apply_random_seed(self._dataset, generator)
        if run.seeded is not None:
            return self._make_seeded_fetcher(run.seeded)
        return make_fetcher(
            self._dataset,
            iterable=spec.iterable,
            batched=spec.batched,
            collate=self._collate,
            drop_last=spec.drop_last,
            tolerance=self._tolerance,
            is_live=True,
            state=run.dataset_state,
        )

    def _make_seeded_fetcher(self, begin: SeededBegin) -> Fetcher:
        spec, collate_fn = self._spec, self._parts.collate_fn
        if self._drawn is None:
            self._drawn = DrawnGenerators(self._dataset, collate_fn, shared=())
        if spec.iterable and not is_own_stream(self._dataset):
            become_worker(None)  # it alone reads the stream, and must not take a part of it
        elif self._parts.is_copy and not spec.iterable and hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(begin.epoch)
        return make_pass_fetcher(
            self._dataset,
            begin,
            self._drawn,
            iterable=spec.iterable,
            batched=spec.batched,
            collate=self._collate,
            collate_fn=collate_fn,
            tolerance=self._tolerance,
            is_live=not self._parts.is_copy,
        )


_new: Any = tuple.__new__  # a quarter of what a named tuple's own way takes
_NO_LAYOUT = (None, None, None, None)

running: set[ThreadLoop] = set()
"""Of this process: those that have not left yet."""
