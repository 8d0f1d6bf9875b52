"""The ways of loading with ``seed=``: batches depend on seed, epoch and position alone.

Runs in: consumer.

The machinery is that of the ways without a seed. What differs: the order is that of a
``SeededPass``, a worker sets generators in front of each sample, and the program's own generators
are as they were after each call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fastload._epoch.in_memory import needs_no_workers
from fastload._epoch.inline import InlineIterator
from fastload._epoch.with_workers import PersistentWorkers, WorkersIterator
from fastload._seeded.draws import ITERATOR
from fastload._seeded.generators import GLOBAL
from fastload._seeded.loading import DrawnGenerators, ProgramGenerators, make_seeded_fetcher
from fastload._seeded.owned import find_generators
from fastload._seeded.passes import SeededPass
from fastload._torch_private import BaseIterator
from fastload.collate.inplace import make_collate
from fastload.stats.counters import Counters


def begin(loader: Any) -> Any:
    """Begin the next pass of a loader with ``seed=``."""
    live = loader._live
    one = live.epochs.begin(loader)
    if loader.num_workers == 0:
        return live.add(SeededInlineIterator(loader, one), one.progress)
    if needs_no_workers(loader):
        return live.add(SeededInlineIterator(loader, one, is_live=False), one.progress)
    kept, live.kept_workers = live.kept_workers, None
    if kept is not None and not kept.is_usable:
        kept = None
    iterator = SeededWorkersIterator(loader, one, kept)
    if loader.persistent_workers:
        live.kept_workers = iterator.kept_workers
    return live.add(iterator, one.progress)


class SeededInlineIterator(InlineIterator):
    """A pass over a seeded stream that is loaded in the training process."""

    def __init__(self, loader: Any, one: SeededPass, *, is_live: bool = True) -> None:
        with programs_generators(loader, one):
            BaseIterator.__init__(self, loader)
        self._timeout = 0
        self._profile_name = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
        self._is_live = is_live
        self._start(loader, Counters())
        self._sampler_iter = one.tasks()
        drawn = DrawnGenerators(self._dataset, self._collate_fn)
        self._program = ProgramGenerators(drawn)
        self._fetcher = make_seeded_fetcher(
            self._dataset,
            one.draws,
            drawn,
            batched=self._auto_collation,
            collate=make_collate(self._collate_fn),
            tolerance=self._tolerance,
            is_live=is_live,
        )

    def _fetch(self, indices: Any) -> Any:
        with self._program:
            return super()._fetch(indices)


class SeededWorkersIterator(WorkersIterator):
    """A pass over a seeded stream that is loaded by workers."""

    def __init__(
        self, loader: Any, one: SeededPass, kept_workers: PersistentWorkers | None = None
    ) -> None:
        own = {"_pass": one, "_seeded_epoch": one.epoch}
        self.__dict__.update(own)
        if kept_workers is not None:  # what the iterator of the epoch before had
            kept_workers = kept_workers._replace(state={**kept_workers.state, **own})
        with programs_generators(loader, one):
            super().__init__(loader, kept_workers)

    def _start_sampler(self, loader: Any) -> None:  # noqa: ARG002  (it has a pass of its own)
        self._sampler_iter = self._pass.tasks()


@contextlib.contextmanager
def programs_generators(loader: Any, one: SeededPass) -> Iterator[None]:
    """Give torch's iterators generators of their own while an epoch begins.

    They draw seeds for workers, which then follow from the loader's seed too, and call the
    sampler's ``__iter__``, which may draw. The program finds its generators as they were.
    """
    sampler = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    generators: list[Any] = [*GLOBAL, *find_generators(sampler, "sampler")]
    states = [each.save() for each in generators]
    try:
        for each in generators:
            each.seed(one.draws.seed_of(ITERATOR, each.number, 0))
        yield
    finally:
        for each, state in zip(generators, states, strict=True):
            each.restore(state)
