"""The way without workers: samples are loaded by the process that asks for the batch.

Runs in: consumer.
Takes: the sampler's indices, one batch at a time.
Gives: batches.

``with_workers`` gives the same batches; this file is its specification.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from torch.utils.data import IterDataPipe, MapDataPipe

from fastload._epoch import diagnosis, resume
from fastload._epoch.base import EpochIterator
from fastload._epoch.draws import NO_MORE, SamplerFailed
from fastload._epoch.loader import Loader
from fastload._loading.dataset_state import DatasetState
from fastload._loading.fetch import EndOfStream, Fetcher, make_fetcher
from fastload._loading.on_error import NothingLeft, Tolerance
from fastload._memory.fake_tensors import real_tensors
from fastload._memory.write import HEAP
from fastload._seeded.undrawn import concurrency_of
from fastload._system.interruptions import Guard, is_from_outside
from fastload._torch_private import (
    BaseIterator,
    SingleProcessIterator,
    is_iterable_kind,
    pin_memory,
)
from fastload._wire.exceptions import reraisable
from fastload._wire.indices import count
from fastload.collate.inplace import make_collate
from fastload.stats.counters import Counters, new_counters


class Inline:
    """The way of loaders without workers; always possible."""

    began = resume.INLINE
    is_kept = False

    def begin(self, loader: Loader) -> InlineIterator:
        """Make the epoch's iterator."""
        return InlineIterator(loader)


def offer(loader: Loader, before: Any) -> Inline:  # noqa: ARG001  (all offers are asked alike)
    """The last offer that is asked: it never declines."""
    return Inline()


class InlineIterator(EpochIterator, SingleProcessIterator):  # type: ignore[misc]  # its base is untyped
    """What ``iter(loader)`` gives without workers."""

    _is_live = True
    _ahead = 0

    def __init__(self, loader: Loader) -> None:
        with real_tensors():
            BaseIterator.__init__(self, loader)
        if self._timeout != 0:
            raise AssertionError("_SingleProcessDataLoaderIter requires timeout == 0")
        if isinstance(self._dataset, IterDataPipe | MapDataPipe):
            torch.utils.data.graph_settings.apply_sharding(
                self._dataset, self._world_size, self._rank
            )
        self._profile_name = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
        self._start(loader, new_counters())
        self._start_sampler(loader)

    def _start(self, loader: Loader, counters: Counters) -> None:
        """All but what torch draws at the beginning of an epoch."""
        self._counters = counters
        self._max_errors = loader.max_errors
        self._lock = threading.RLock()
        self._guard = Guard()
        self._taken: dict[int, Any] = {}
        self._failure: Exception | None = None
        self._tolerance = None if loader.on_error == "raise" else Tolerance(loader.on_error)
        self._concurrency = concurrency_of(
            self._dataset,
            loader.concurrent_samples,
            loader._live.crew,
            is_seeded=loader._stream_seed is not None,
        )
        self._fetcher = self._make_fetcher(loader._live.take_dataset_state())
        self.source = self._fetcher.source

    def _make_fetcher(self, state: DatasetState | None) -> Fetcher:
        return make_fetcher(
            self._dataset,
            iterable=self._dataset_kind == is_iterable_kind,
            batched=self._auto_collation,
            collate=make_collate(self._collate_fn),
            drop_last=self._drop_last,
            tolerance=self._tolerance,
            is_live=self._is_live,
            state=state,
            concurrency=self._concurrency,
        )

    def close(self) -> None:
        """Nothing to end."""

    def _next_data(self) -> Any:
        asked_ns = time.monotonic_ns()
        thread = threading.get_ident()
        pending = self._pending.batch
        if pending is not None and pending[0] == thread:
            return pending[1]  # an exception from outside hit us on the way to the caller
        batch: Any = NothingLeft
        while batch is NothingLeft:
            indices = self._take_indices(thread)
            drawn = time.monotonic_ns(), time.thread_time_ns()
            batch = self._fetch(indices, thread)
            pin_ns = 0
            if self._pin_memory and batch is not NothingLeft:
                pinning_ns = time.monotonic_ns()
                batch = pin_memory(batch, self._pin_memory_device)
                pin_ns = time.monotonic_ns() - pinning_ns
            self._let_go(thread, batch)
        samples, watch = count(indices) if self._auto_collation else 1, self._fetcher.watch
        watch.note(samples, watch.fetched_ns - drawn[0])
        self._counters.loaded_inline(watch, samples, asked_ns, drawn, pin_ns)
        return batch

    def _take_indices(self, thread: int) -> Any:
        """The indices of the next batch, which this thread has until ``_let_go``.

        A batch that an exception from outside kept from being loaded is loaded now.
        """
        if self._failure is not None:
            raise self._failure
        if thread in self._taken:
            return self._taken[thread]
        with self._lock:
            if self._guard.depth:
                self._failure = diagnosis.interrupted(diagnosis.HALF_DONE)
                raise self._failure
            indices = self._draws.look(self._ahead)
            if indices is NO_MORE:
                if self._draws.is_broken:
                    raise diagnosis.interrupted(diagnosis.IN_SAMPLER)
                self.position.is_finished = True
                raise StopIteration
            with self._guard:
                self._draws.used()
                if type(indices) is not SamplerFailed:
                    self._taken[thread] = indices
        if type(indices) is SamplerFailed:
            raise indices.error
        return indices

    def _let_go(self, thread: int, batch: Any) -> None:
        """A batch was loaded, or nothing is left of it."""
        with self._lock, self._guard:
            del self._taken[thread]
            self.position.advance()
            if self._tolerance is None:
                self._pending.batch = thread, batch
        if self._tolerance is not None:
            self._count_skipped(self._tolerance.take_skipped())
            self._pending.batch = None if batch is NothingLeft else (thread, batch)

    def _fetch(self, indices: Any, thread: int) -> Any:
        """The batch, or NothingLeft in its place."""
        try:
            return self._fetcher.fetch(indices, HEAP)
        except NothingLeft:
            return NothingLeft
        except EndOfStream:
            self.position.is_finished = True
            del self._taken[thread]
            raise StopIteration from None
        except BaseException as error:
            if is_from_outside(error):
                if self._dataset_kind == is_iterable_kind:
                    self._failure = diagnosis.interrupted(diagnosis.IN_STREAM)
                if self._tolerance is not None:
                    self._tolerance.take_skipped()  # they will be met again
                raise
            self.position.note_error()
            del self._taken[thread]
            if isinstance(error, StopIteration):
                raise reraisable(error) from error
            raise
