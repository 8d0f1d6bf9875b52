"""The epochs in which ``num_workers="auto"`` is decided: in parts, each with another number.

Runs in: consumer.

The sampler is drawn once, in the consumer, and each part takes the next stretch of it; so samples
and order are those of any number of workers. A part ends when its setting was measured and another
number is to be tried; the next one begins with workers of its own. A larger ``prefetch_factor``
needs no new ones: more tasks are given out. With ``persistent_workers`` the workers of the last
part are those of the next epoch. Once the tuner has settled on workers, epochs are ordinary ones.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset

from fastload._autotune import numbers as auto
from fastload._autotune.measurement import MeasuringWindow
from fastload._autotune.tuner import Choice, Tuner
from fastload._epoch import diagnosis, resume
from fastload._epoch.base import EpochIterator
from fastload._epoch.draws import NO_MORE, Draws
from fastload._epoch.inline import InlineIterator
from fastload._epoch.loader import Loader
from fastload._epoch.with_workers import PersistentWorkers, WorkersIterator
from fastload._memory.leaves import size_bytes
from fastload._pool.make import make_pool
from fastload._pool.pool import Pool
from fastload._system.interruptions import NOTHING
from fastload._torch_private import MultiProcessingIterator
from fastload.stats.counters import new_counters


class Automatic:
    """The way of epochs during which the number of workers is being chosen, or was chosen as 0."""

    def __init__(self, tuner: Tuner, before: AutoIterator | None, *, is_kept: bool) -> None:
        """``before`` is the iterator of the epoch before, whose workers are to be kept."""
        self.began = resume.NEW_WORKERS if before is None else resume.KEPT_WORKERS
        self.is_kept = is_kept
        self._tuner = tuner
        self._before = before

    def begin(self, loader: Loader) -> AutoIterator:
        """Make the epoch's iterator."""
        return AutoIterator(loader, self._tuner, self._before)


def offer(loader: Loader, before: Any) -> Automatic | None:
    """Possible for automatic loaders until they have settled on workers."""
    tuner = loader._live.tuner_of(loader)
    if tuner is None or (tuner.is_settled and loader.num_workers > 0):
        return None
    if not isinstance(before, AutoIterator | None):
        return None
    return Automatic(tuner, before, is_kept=loader.persistent_workers)


class AutoIterator(EpochIterator, MultiProcessingIterator):  # type: ignore[misc]  # its base is untyped
    """An epoch during which the number of workers is chosen, or for which none are needed.

    Whatever is chosen, and whenever, it draws from the program's generators what an epoch with
    workers draws; so the order of all epochs is that of any fixed number.
    """

    def __init__(self, loader: Loader, tuner: Tuner, before: AutoIterator | None) -> None:
        """Begin an epoch; ``before`` is the iterator whose workers are to be kept."""
        self._draw_as_with_workers(loader, before)
        self._start_sampler(loader)
        self._profile_name = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
        self._loader = loader
        self._tuner = tuner
        tuner.epochs += 1
        self._counters = new_counters()
        self._counters.describe_choice = tuner.__str__
        self._max_errors = loader.max_errors
        self._lock = threading.RLock()
        self._part: Any = None
        self._window: MeasuringWindow | None = None
        self._pool: Pool | None = None if before is None else before._pool
        self._is_stream = isinstance(self._dataset, IterableDataset)
        self._draws = self._indices = SegmentedDraws(self._sampler_iter)
        self._indices.has_more()  # drawn now, as with workers

    @property
    def kept_workers(self) -> PersistentWorkers:
        """What goes over to the next epoch: the seeds, and the workers if they are as chosen."""
        return PersistentWorkers(self._pool_for(self._tuner.choice), self.drawn)

    def _pool_for(self, choice: Choice) -> Pool | None:
        pool: Any = self._pool
        is_kept = pool is not None and pool.is_usable and len(pool.workers) == choice.workers
        return pool if is_kept else None

    def _next_data(self) -> Any:
        with self._lock:
            while True:
                part = self._begin_part() if self._part is None else self._part
                try:
                    batch = part._next_data()
                except StopIteration:
                    self._end_part()
                    continue
                if self._window is not None and self._window.is_over():
                    self._judge(self._window)
                if not self._tuner.batch_bytes:
                    self._tuner.batch_bytes = size_bytes(batch)
                return batch

    def _begin_part(self) -> Any:
        """Go on with the setting to be tried next.

        Raises:
            StopIteration: The epoch is over.
        """
        if not self._indices.has_more():
            if self._indices.is_broken:
                raise diagnosis.interrupted(diagnosis.IN_SAMPLER)
            self.position.is_finished = True
            auto.apply(self._loader, self._tuner)
            raise StopIteration
        self.position.is_finished = False
        choice = self._tuner.choice
        self._indices.open()
        self._window = None if self._tuner.is_settled else MeasuringWindow(self._counters, choice)
        if choice.workers == 0:
            self._pool = None
            self._part = _InlinePart(self)
        else:
            self._part = _PipelinePart(self, choice)
            self._pool = self._part._pool if self._loader.persistent_workers else None
        self._part.position = self.position
        return self._part

    def _end_part(self) -> None:
        self._part = None
        window, self._window = self._window, None
        if self._is_stream:
            self._indices.end()  # the sampler of a stream never ends
        if window is not None and not self._indices.is_cut:
            self._judge_at_end(window)
        if self._pool is not None and self._pool_for(self._tuner.choice) is None:
            self._pool = None  # workers end with the last reference to their pool

    def _judge(self, window: MeasuringWindow) -> None:
        """A setting was measured: keep it, measure it for longer, or go over to another one."""
        if self._is_stream:
            return
        tuner = self._tuner
        seen = window.measure(tuner.batch_bytes)
        if seen is None:
            return
        if not window.is_longest and not tuner.is_clear(seen):
            window.extend()
            return
        tuner.observe(seen)
        choice, self._window = tuner.choice, None
        if choice.workers != window.choice.workers:
            self._indices.cut()
            return
        if choice.workers:
            self._part.reach(choice.prefetch)
        if not tuner.is_settled and choice != window.choice:
            self._window = MeasuringWindow(self._counters, choice, choice.workers * choice.prefetch)

    def _judge_at_end(self, window: MeasuringWindow) -> None:
        """The epoch ended before the measurement did: what was seen may be enough."""
        seen = window.measure(self._tuner.batch_bytes)
        if seen is not None and not self._tuner.is_settled:
            self._tuner.observe(seen)

    @property
    def _workers(self) -> list[Any]:
        return list(getattr(self._part, "_workers", []))

    def close(self) -> None:
        """End the workers now."""
        for each in (self._part, self._pool):
            if each is not None:
                each.close()

    _shutdown_workers = close  # what trainers call of torch's iterator

    __del__ = NOTHING  # torch's would touch state that is not there


class SegmentedDraws(Draws):
    """The indices of an epoch, for one part after the other.

    Refers to no iterator: it lies in one, and workers end with the last reference to theirs.
    """

    def __init__(self, indices: Iterator[Any]) -> None:
        super().__init__(indices)
        self.is_cut = False

    def look(self, ahead: int = 0) -> Any:
        """As ever, but ``NO_MORE`` behind the end of the part."""
        return NO_MORE if self.is_cut else super().look(ahead)

    def has_more(self) -> bool:
        """Whether there is anything for another part."""
        return super().look() is not NO_MORE

    def open(self) -> None:
        """The next stretch begins."""
        self.is_cut = False

    def cut(self) -> None:
        """This stretch ends here."""
        self.is_cut = True


class _InlinePart(InlineIterator):
    def __init__(self, whole: AutoIterator) -> None:
        self.__dict__.update(vars(whole))
        self._start(whole._loader, whole._counters)


class _PipelinePart(WorkersIterator):
    starts_all = True  # a worker that does not run yet would be taken for an idle one

    def __init__(self, whole: AutoIterator, choice: Choice) -> None:
        loader = whole._loader
        self.__dict__.update(vars(whole))
        pool = whole._pool_for(choice)
        if pool is None:
            most = auto.most_prefetch(loader, choice, whole._tuner.batch_bytes)
            pool = make_pool(self, loader, choice.workers, most)
        self._ahead = choice.prefetch
        self._start(pool, loader, choice.workers, choice.prefetch, whole._counters)

    def reach(self, prefetch: int) -> None:
        """Go on with so many batches ahead for each worker."""
        with self._pool.lock:
            self._run.add_room(max(0, prefetch - self._ahead) * len(self._pool.workers))
        self._ahead = prefetch
