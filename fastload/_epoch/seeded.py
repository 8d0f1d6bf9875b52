"""The ways of loading with ``seed=``: batches depend on seed, epoch and position alone.

Runs in: consumer.

The machinery is that of the ways without a seed. What differs: the order is that of a
``SeededPass``, a worker sets generators in front of each sample, and the program's own generators
are as they were after each call.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from fastload._epoch import resume
from fastload._epoch.in_memory import needs_no_workers
from fastload._epoch.inline import InlineIterator
from fastload._epoch.loader import Loader
from fastload._epoch.seeded_pass import SeededPass
from fastload._epoch.with_workers import PersistentWorkers, WorkersIterator
from fastload._loading.dataset_state import DatasetState
from fastload._loading.fetch import Fetcher
from fastload._seeded.generators import GLOBAL
from fastload._seeded.loading import DrawnGenerators, ProgramGenerators
from fastload._seeded.own_streams import is_own_stream
from fastload._seeded.owned import find_generators
from fastload._seeded.pass_fetcher import make_pass_fetcher
from fastload._seeded.seeds import ITERATOR
from fastload._seeded.streams import LoadedItems, loads_items
from fastload._torch_private import BaseIterator, is_iterable_kind, is_map_kind
from fastload.collate.inplace import make_collate
from fastload.stats.counters import new_counters


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

    def begin(self, loader: Loader) -> SeededInlineIterator | SeededWorkersIterator:
        """Begin the next pass of the loader, in this process or with workers."""
        one = loader._live.epochs.begin(loader)
        is_live = loader.num_workers == 0
        if is_live or needs_no_workers(loader):
            return SeededInlineIterator(loader, one, is_live=is_live)
        kept: PersistentWorkers | None = getattr(self._before, "kept_workers", None)
        if kept is not None and not kept.is_usable:
            kept = None
        return SeededWorkersIterator(loader, one, kept)


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
        )

    _workers: tuple[()] = ()

    def _shutdown_workers(self) -> None:
        """What trainers call of torch's iterator."""


class SeededWorkersIterator(WorkersIterator):
    """A pass over a seeded stream that is loaded by workers."""

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

    def _numbers(self, loader: Loader) -> tuple[int, int]:
        """One worker reads an iterable dataset, as many batches ahead as all would be."""
        if self._dataset_kind == is_iterable_kind and not is_own_stream(self._dataset):
            _warn_of_idle_workers(loader)
            return 1, loader.num_workers * loader.prefetch_factor
        return super()._numbers(loader)

    def _start_sampler(self, loader: Loader) -> None:  # noqa: ARG002  (it has a pass of its own)
        self._begin_drawing(self._pass.tasks())


def _read_items(iterator: Any) -> None:
    """Where the training process reads the items of a dataset, workers load them one by one."""
    if iterator._dataset_kind == is_iterable_kind and loads_items(iterator._dataset):
        iterator._dataset = LoadedItems(iterator._dataset)
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
