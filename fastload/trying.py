"""The epoch in which ``num_workers="auto"`` is decided: in parts, each with another number.

Runs in: consumer.

The sampler is drawn once, in the consumer, and each part takes the next stretch of it; so samples
and order are those of any number of workers. A part ends when its setting was measured and another
one is to be tried; the next one begins with workers of its own. Once the tuner has settled, epochs
are ordinary ones.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from fastload import auto
from fastload.inline import InlineIterator
from fastload.internals import BaseIterator, MultiProcessingIterator
from fastload.iteration import Stepping
from fastload.pipeline import PipelineIterator, make_pool
from fastload.rows import Array, columns, durations
from fastload.stats import Counters
from fastload.tree import size_bytes
from fastload.tuner import Choice, Seen, Tuner

PART_S = 0.3
"""How long a setting is measured, once its workers have filled the queue."""

FIRST_PART_S = 0.1
"""The same without workers: enough to see what a batch costs."""

LEAST_BATCHES = 4


class AutoIterator(Stepping, MultiProcessingIterator):  # type: ignore[misc]  # its base is untyped
    """An epoch during which the number of workers is chosen."""

    def __init__(self, loader: Any, tuner: Tuner) -> None:
        BaseIterator.__init__(self, loader)
        self._go_on(loader)
        self._profile_name = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
        self._loader = loader
        self._tuner = tuner
        self._counters = Counters()
        self._counters.describe_choice = tuner.__str__
        self._max_errors = loader.max_errors
        self._lock = threading.RLock()
        self._part: Any = None
        self._is_stream = isinstance(self._dataset, IterableDataset)
        self._rest: Iterator[Any] = self._sampler_iter

    def _next_data(self) -> Any:
        with self._lock:
            while True:
                part = self._begin_part() if self._part is None else self._part
                try:
                    batch = part._next_data()
                except StopIteration:
                    part.close()
                    self._part = None
                    if self._is_stream:
                        self._rest = iter(())  # the sampler of a stream never ends
                    continue
                part._in_hand = None
                if not self._tuner.batch_bytes:
                    self._tuner.batch_bytes = size_bytes(batch)
                return batch

    def _begin_part(self) -> Any:
        """Go on with the setting to be tried next.

        Raises:
            StopIteration: The epoch is over.
        """
        first = list(itertools.islice(self._rest, 1))
        if not first:
            self.position.is_finished = True
            if self._tuner.is_settled:
                auto.apply(self._loader, self._tuner)
            raise StopIteration
        self.position.is_finished = False
        choice = self._tuner.choice
        stretch = _Stretch(self._tuner, self._counters, itertools.chain(first, self._rest))
        stretch.is_whole = self._is_stream
        make: Any = _InlinePart if choice.workers == 0 else _PipelinePart
        part = make(self, choice, iter(stretch))
        part.position = self.position
        self._part = part
        return part

    @property
    def _workers(self) -> list[Any]:
        return list(getattr(self._part, "_workers", []))

    def close(self) -> None:
        """End the workers now."""
        if self._part is not None:
            self._part.close()

    _shutdown_workers = close  # what trainers call of torch's iterator

    def __del__(self) -> None:
        """Nothing: torch's would touch state that is not there."""


class _Stretch:
    """The indices of one part: until its setting was measured and another one is to be tried.

    Refers to no iterator: it lies in one, and workers end with the last reference to theirs.
    """

    def __init__(self, tuner: Tuner, counters: Counters, indices: Iterator[Any]) -> None:
        self.is_whole = False
        self._tuner = tuner
        self._counters = counters
        self._indices = indices
        self._choice = tuner.choice
        self._begin = counters.delivered_batches
        self._skip = max(1, self._choice.workers * self._choice.prefetch)

    def __iter__(self) -> Iterator[Any]:
        until_s = 0.0
        seconds = FIRST_PART_S if self._choice.workers == 0 else PART_S
        for batch in self._indices:
            yield batch
            if self._tuner.is_settled or self.is_whole:
                continue
            done = self._counters.delivered_batches - self._begin - self._skip
            if done >= 0 and not until_s:
                until_s = time.monotonic() + seconds
            if done >= LEAST_BATCHES and time.monotonic() > until_s and self._moves_on():
                return
        if not self._tuner.is_settled:
            self._moves_on()

    def _moves_on(self) -> bool:
        """Let the tuner decide; returns whether for another setting."""
        rows = self._counters.rows()
        count = min(self._counters.delivered_batches - self._begin, len(rows))
        rows = rows[len(rows) - count :][self._skip :]
        if len(rows) >= LEAST_BATCHES:
            self._tuner.observe(_see(self._choice, rows, self._tuner.batch_bytes))
        return self._tuner.choice != self._choice


def _see(choice: Choice, rows: Array, batch_bytes: int) -> Seen:
    of, took = columns(rows), durations(rows)
    elapsed_s = float(of["left"][-1] - of["left"][0]) / 1e9
    waited_s = float(took["wait"][1:].sum()) / 1e9
    return Seen(
        choice=choice,
        samples_per_s=float(of["samples"][1:].sum()) / elapsed_s if elapsed_s else 0.0,
        stall_share=waited_s / elapsed_s if elapsed_s else 0.0,
        load_s=float(np.mean(took["fetch"] + took["collate"])) / 1e9,
        cpu_s=float(np.mean(of["cpu"])) / 1e9,
        step_s=float(np.median(took["busy"][:-1])) / 1e9,
        reorder_s=float(np.mean(took["reorder"])) / 1e9,
        batch_bytes=max(batch_bytes, int(of["shared_bytes"].max())),
    )


class _InlinePart(InlineIterator):
    def __init__(self, whole: AutoIterator, _choice: Choice, indices: Iterator[Any]) -> None:
        self.__dict__.update(vars(whole))
        self._start(whole._loader, whole._counters)
        self._sampler_iter = indices


class _PipelinePart(PipelineIterator):
    def __init__(self, whole: AutoIterator, choice: Choice, indices: Iterator[Any]) -> None:
        loader = whole._loader
        self.__dict__.update(vars(whole))
        self._sampler_iter = indices
        pool = make_pool(self, loader, choice.workers, choice.prefetch)
        self._start(pool, loader, choice.workers, choice.prefetch, whole._counters)
