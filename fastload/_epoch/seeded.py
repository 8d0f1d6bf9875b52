"""The ways of loading with ``seed=``: batches depend on seed, epoch and position alone.

Runs in: consumer.

The machinery is that of the ways without a seed. What differs: the order is that of a
``SeededPass``, a worker sets generators in front of each sample, and the program's own generators
are as they were after each call.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

from fastload._epoch import resume
from fastload._epoch.ahead import EpochAhead, begin_ahead, may_go_ahead
from fastload._epoch.cut import WorkersPerBatch, cut_for
from fastload._epoch.draws import Draws
from fastload._epoch.in_memory import needs_no_workers
from fastload._epoch.inline import InlineIterator
from fastload._epoch.loader import Loader
from fastload._epoch.run import ProcessRun, Run
from fastload._epoch.seeded_pass import SeededPass
from fastload._epoch.with_threads import ThreadsIterator, goes_on_with_threads
from fastload._epoch.with_workers import PersistentWorkers, WorkersIterator
from fastload._loading.dataset_state import DatasetState
from fastload._loading.fetch import Fetcher
from fastload._pool.pool import Pool
from fastload._seeded.generators import GLOBAL
from fastload._seeded.loading import DrawnGenerators, ProgramGenerators
from fastload._seeded.own_streams import is_own_stream
from fastload._seeded.owned import find_generators
from fastload._seeded.pass_fetcher import make_pass_fetcher
from fastload._seeded.seeds import ITERATOR
from fastload._seeded.streams import as_map_style, loads_items
from fastload._torch_private import BaseIterator, is_iterable_kind, is_map_kind
from fastload._wire import task_queue
from fastload._wire.messages import SeededBegin
from fastload.collate.inplace import make_collate
from fastload.stats.counters import Counters, new_counters


class Seeded:
    """The way of loaders with ``seed=``.

    Attributes:
        began: Not used: the order follows from the seed.
        is_kept: Whether workers are kept for the next epoch.
    """

    began = resume.INLINE

    def __init__(self, before: Any, *, is_kept: bool) -> None:
        """``before`` is the iterator of the epoch before, if the loader keeps workers."""
        self.is_kept = is_kept
        self._before = before

    def begin(self, loader: Loader) -> SeededInlineIterator | SeededPassIterator:
        """Begin the next pass of the loader, in this process or with workers."""
        one = loader._live.epochs.begin(loader)
        is_live = loader.num_workers == 0
        if is_live or needs_no_workers(loader):
            return SeededInlineIterator(loader, one, is_live=is_live)
        kept: PersistentWorkers | None = getattr(self._before, "kept_workers", None)
        if kept is not None and not kept.is_usable:
            kept = None
        if goes_on_with_threads(loader, kept):
            return SeededThreadsIterator(loader, one, kept)
        return SeededWorkersIterator(loader, one, kept, self._take_ahead())

    def _take_ahead(self) -> EpochAhead | None:
        before = self._before
        return before.take_ahead() if isinstance(before, SeededWorkersIterator) else None


def offer(loader: Loader, before: Any) -> Seeded | None:
    """Possible, and the only way, if the loader has a seed."""
    if loader._stream_seed is None:
        return None
    return Seeded(before, is_kept=loader.persistent_workers and loader.num_workers > 0)


class SeededInlineIterator(InlineIterator):
    """A pass over a seeded stream that is loaded in the training process."""

    def __init__(self, loader: Loader, one: SeededPass, *, is_live: bool = True) -> None:
        with programs_generators(loader, one):
            BaseIterator.__init__(self, loader)
        self._timeout = 0
        self._profile_name = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
        self._is_live = is_live
        self._pass = one
        self.position = one.progress
        _read_items(self)
        self._drawn = DrawnGenerators(self._dataset, self._collate_fn, everything=not loader.redo)
        self._program = ProgramGenerators(self._drawn)
        with self._program:
            self._start(loader, new_counters())
        self._begin_drawing(one.tasks())

    def _make_fetcher(self, state: DatasetState | None) -> Fetcher:  # noqa: ARG002  (it has none)
        return make_pass_fetcher(
            self._dataset,
            self._pass.begin,
            self._drawn,
            iterable=self._dataset_kind == is_iterable_kind,
            batched=self._auto_collation,
            collate=make_collate(self._collate_fn),
            collate_fn=self._collate_fn,
            tolerance=self._tolerance,
            is_live=self._is_live,
            program=self._program,
            concurrency=self._concurrency,
        )

    _workers: tuple[()] = ()

    def _shutdown_workers(self) -> None:
        """What trainers call of torch's iterator."""


class SeededPassIterator(WorkersIterator):
    """Stands before an iterator class with workers: a pass over a seeded stream."""

    _pass: SeededPass

    def __init__(
        self, loader: Loader, one: SeededPass, kept_workers: PersistentWorkers | None = None
    ) -> None:
        own = {"_pass": one, "_seeded": one.begin, "position": one.progress}
        self.__dict__.update(own)
        if kept_workers is not None:  # what the iterator of the epoch before had
            kept_workers = kept_workers._replace(state={**kept_workers.state, **own})
        with programs_generators(loader, one):
            super().__init__(loader, kept_workers)

    def _prepare_dataset(self) -> None:
        _read_items(self)
        # Of our own streams each worker reads row groups of its own, so tasks are dealt in turn.
        is_map = self._dataset_kind == is_map_kind and not is_own_stream(self._dataset)
        self.shares_tasks = task_queue.IS_SUPPORTED and is_map and self._num_workers > 1

    def _numbers(self, loader: Loader) -> tuple[int, int]:
        """One worker reads an iterable dataset, as many batches ahead as all would be."""
        if self._dataset_kind == is_iterable_kind and not is_own_stream(self._dataset):
            _warn_of_idle_workers(loader)
            return 1, loader.num_workers * loader.prefetch_factor
        return super()._numbers(loader)

    def _start_sampler(self, loader: Loader) -> None:  # noqa: ARG002  (it has a pass of its own)
        self._begin_drawing(self._pass.tasks())


class SeededWorkersIterator(SeededPassIterator, WorkersIterator):
    """A pass over a seeded stream that is loaded by worker processes."""

    starts_later = True  # with a seed, the dataset is to be the same in all processes
    _pool: Pool
    _ahead: EpochAhead | None = None
    _has_gone_ahead = False
    _cut: WorkersPerBatch = 1

    def __init__(
        self,
        loader: Loader,
        one: SeededPass,
        kept_workers: PersistentWorkers | None = None,
        ahead: EpochAhead | None = None,
    ) -> None:
        """Begin a pass.

        Args:
            loader: The loader.
            one: The pass.
            kept_workers: Those of the epoch before; None: new ones are started.
            ahead: The run that was begun on them for the coming epoch, if this is the one.
        """
        if kept_workers is not None:
            state = {**kept_workers.state, "_begun": ahead}
            kept_workers = kept_workers._replace(state=state)
        super().__init__(loader, one, kept_workers)
        self.kept_workers.state.pop("_begun", None)  # or that run would live as long as this one

    def _make_run(
        self, loader: Loader, workers: int, prefetch_factor: int, counters: Counters
    ) -> Run:
        begun: EpochAhead | None = self.__dict__.pop("_begun", None)
        self._loader = weakref.ref(loader)
        self._most_tasks = prefetch_factor * workers
        if begun is not None and begun.fits(loader, self._pool, self._pass.begin):
            self._draws = begun.draws
            begun.run.count_with(counters)
            begun.run.set_room(self._most_tasks)
            return begun.run
        self._cut = loader.workers_per_batch if self.shares_tasks and self._auto_collation else 1
        return self._begin_run(self._draws, counters, self._pass.begin, self._most_tasks)

    def _begin_run(
        self, draws: Draws, counters: Counters, begin: SeededBegin, most_tasks: int
    ) -> Run:
        return ProcessRun(
            self._pool,
            draws,
            None,
            counters,
            most_tasks=most_tasks,
            in_order=True,
            ends_pool=not self._persistent_workers,
            seeded=begin,
            cut=cut_for(self._cut, self._pool.size),
        )

    def _go_ahead(self, run: Run) -> None:
        """Load the next epoch in the room that the batches of this one leave."""
        loader = self._loader()
        if loader is None or not may_go_ahead(loader, run):
            return
        if self._ahead is None and not self._has_gone_ahead:
            self._has_gone_ahead = True
            self._ahead = begin_ahead(loader, self._pool, self._pass.begin, self._begin_run)
        if self._ahead is not None:
            self._ahead.run.set_room(max(0, self._most_tasks - run.in_flight))

    def take_ahead(self) -> EpochAhead | None:
        """Give away the run of the next epoch, if it was begun."""
        ahead, self._ahead = self._ahead, None
        return ahead


class SeededThreadsIterator(SeededPassIterator, ThreadsIterator):
    """A pass over a seeded stream that is loaded by threads."""


def _read_items(iterator: Any) -> None:
    """Where the training process reads the items of a dataset, workers load them one by one."""
    if iterator._dataset_kind == is_iterable_kind and loads_items(iterator._dataset):
        iterator._dataset = as_map_style(iterator._dataset)
        iterator._dataset_kind = is_map_kind


_has_warned: list[bool] = []


def _warn_of_idle_workers(loader: Loader) -> None:
    if loader.num_workers == 1 or _has_warned:
        return
    _has_warned.append(True)
    warnings.warn(
        f"num_workers={loader.num_workers}, but with seed= one worker reads an iterable dataset: "
        f"{type(loader.dataset).__name__} yields the whole stream to it. A method load(item) makes "
        f"the others take part: the iterator then yields items, and load makes samples of them.",
        stacklevel=2,
    )


@contextlib.contextmanager
def programs_generators(loader: Loader, one: SeededPass) -> Iterator[None]:
    """Give torch's iterators generators of their own while an epoch begins.

    They draw seeds for workers, which then follow from the loader's seed too, and call the
    sampler's ``__iter__``, which may draw. The program finds its generators as they were.
    """
    sampler = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    generators: list[Any] = [*GLOBAL, *find_generators(sampler, "sampler")]
    states = [each.save() for each in generators]
    try:
        one.draws.seed(generators, ITERATOR, 0)
        yield
    finally:
        for each, state in zip(generators, states, strict=True):
            each.restore(state)
