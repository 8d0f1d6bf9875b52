"""Iterable datasets in a seeded stream: read in one process, cut into the steps of all ranks.

Runs in: the one worker that reads (consumer with ``num_workers=0``, and where only items are read).
Takes: a dataset that is iterated over, and where its stream begins.
Gives: this rank's samples of each step, each loaded with generators set for its position.

A stream can't be asked for a sample again, so all generators are set in front of each ``next``.
Every rank reads the whole stream and keeps its blocks, since nobody else knows what a dataset of
the user's would yield for a part.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fastload._loading.dataset_state import StateSource
from fastload._loading.fetch import EndOfStream
from fastload._loading.on_error import LEFT_OUT, NothingLeft, Tolerance
from fastload._loading.stopwatch import Watch
from fastload._memory.write import Place
from fastload._seeded.generators import GLOBAL, GlobalGenerator
from fastload._seeded.owned import find_generators
from fastload._seeded.seeds import COLLATE, ITERATOR, SAMPLE, EpochDraws
from fastload._system.interruptions import is_from_outside
from fastload._wire.indices import PositionedIndices
from fastload._wire.messages import SeededBegin
from fastload.collate.inplace import Collate
from fastload.errors import annotate


class PlacedSample(NamedTuple):
    """A sample and its position in the stream."""

    position: int
    sample: Any


class StreamReader:
    """Reads the stream of an iterable dataset step by step.

    Args:
        dataset: Its ``set_epoch`` is called if it has one, then its ``__iter__``.
        begin: Where the pass begins, and how it is dealt.
        purpose: Of the draws in front of each ``next``.
        tolerance: Leaves out or replaces samples that can't be loaded; None: errors are raised.
        shared: The global generators that are set in front of each ``next``.
    """

    def __init__(
        self,
        dataset: Any,
        begin: SeededBegin,
        purpose: int,
        tolerance: Tolerance | None = None,
        shared: tuple[GlobalGenerator, ...] = GLOBAL,
    ) -> None:
        self._begin = begin
        self._draws = EpochDraws(begin.seed, begin.epoch)
        self._purpose = purpose
        self._tolerance = tolerance
        self._generators: list[Any] = [*shared, *find_generators(dataset, "dataset")]
        self._seed(ITERATOR, 0)
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(begin.epoch)
        self._samples: Iterator[Any] = iter(dataset)
        self._position = 0
        self._has_ended = False
        self._whole_step: list[PlacedSample] = []

    def read_block(self, first: int) -> list[PlacedSample]:
        """This rank's samples of the step in which it begins at a position, fillers behind them.

        Raises:
            EndOfStream: The rank has no more batches.
            NothingLeft: None of its samples could be loaded, and there is but one rank.
        """
        if self._has_ended:
            raise EndOfStream
        begin = self._begin
        size = begin.ranks * begin.batch_size
        offset = begin.rank * begin.batch_size
        step = first - offset
        # What was delivered before, or was loaded by a worker that died, is read again.
        while self._position < step and not self._has_ended:
            self._next()
        if self._has_ended:
            raise EndOfStream
        found = self._read(size)
        left = self._position - step
        if left < size and self._is_left_out(left):
            raise EndOfStream
        own = [each for each in found if 0 <= each.position - first < begin.batch_size]
        if left < size:
            own += self._fillers(found, left)
            if not own and offset >= left:
                raise EndOfStream
        elif begin.ranks > 1 and begin.even in ("pad", "mask"):
            self._whole_step = found
        return self._not_empty(own, first)

    def _read(self, most: int) -> list[PlacedSample]:
        """The next samples, without those that are left out; fewer where the stream ends."""
        found = []
        for _ in range(most):
            one = self._next()
            if one is not None:
                found.append(one)
            elif self._has_ended:
                break
        return found

    def _is_left_out(self, left: int) -> bool:
        begin = self._begin
        return left == 0 or begin.drop_last or (begin.ranks > 1 and begin.even == "drop")

    def _fillers(self, found: list[PlacedSample], left: int) -> list[PlacedSample]:
        """What completes this rank's batch: samples of the last whole step, over and over."""
        begin = self._begin
        if begin.ranks == 1 or begin.even == "none":
            return []
        first = max(begin.rank * begin.batch_size, left) - left
        stop = (begin.rank + 1) * begin.batch_size - left
        again = self._whole_step or found
        return [again[at % len(again)] for at in range(first, stop)] if again else []

    def _not_empty(self, own: list[PlacedSample], first: int) -> list[PlacedSample]:
        if own:
            return own
        if self._begin.ranks == 1:
            raise NothingLeft
        raise RuntimeError(
            f"none of the {self._begin.batch_size} samples from position {first} on could be "
            f"loaded. With {self._begin.ranks} ranks a batch can't be left out on one of them: the "
            f"others would wait for it for ever. Use on_error with a function that gives another "
            f"sample, or larger batches."
        )

    def _next(self) -> PlacedSample | None:
        """The next sample; None if it is left out, or if the stream has ended."""
        position = self._position
        self._seed(self._purpose, position)
        try:
            sample = next(self._samples)
        except StopIteration:
            self._has_ended = True
            return None
        except Exception as error:  # noqa: BLE001  (raised again, unless errors are tolerated)
            sample = self._stand_in(position, error)
        self._position = position + 1
        return None if sample is LEFT_OUT else PlacedSample(position, sample)

    def _stand_in(self, position: int, error: Exception) -> Any:
        if self._tolerance is None or is_from_outside(error):
            raise error
        if inspect.isgenerator(self._samples):
            annotate(error, "on_error can't go on here: a generator ends with its error")
            raise error
        return self._tolerance.stand_in(position, error)

    def _seed(self, purpose: int, position: int) -> None:
        self._draws.seed(self._generators, purpose, position)


class SeededStreamFetcher:
    """Loads the batches of an iterable dataset in the one process that reads it.

    Args:
        dataset: The dataset.
        begin: Where the pass begins, and how it is dealt.
        batched: Whether batches are collated, rather than single samples converted.
        collate: Makes a batch of samples, or tensors of what one sample has.
        collate_fn: The user's, whose own generators are set in front of each call.
        tolerance: Leaves out or replaces samples that can't be loaded; None: errors are raised.
        shared: The global generators that are set in front of each sample and each call.
        program: Keeps the generators of the program; None in a worker.
    """

    def __init__(
        self,
        dataset: Any,
        begin: SeededBegin,
        *,
        batched: bool,
        collate: Collate,
        collate_fn: Callable[..., Any],
        tolerance: Tolerance | None = None,
        shared: tuple[GlobalGenerator, ...] = GLOBAL,
        program: contextlib.AbstractContextManager[object] | None = None,
    ) -> None:
        self.source: StateSource | None = None  # what is delivered again is read again
        self.watch = Watch()
        self._reader = StreamReader(dataset, begin, SAMPLE, tolerance, shared)
        self._draws = EpochDraws(begin.seed, begin.epoch)
        self._batched = batched
        self._program = program or contextlib.nullcontext()
        self._collate = collate
        self._generators: list[Any] = [*shared, *find_generators(collate_fn, "collate_fn")]

    def fetch(self, indices: PositionedIndices, place: Place) -> Any:
        """Load and collate the batch that begins at the first position; as ``Fetcher.fetch``."""
        with self._program:
            return self._fetch(indices, place)

    def _fetch(self, indices: PositionedIndices, place: Place) -> Any:
        first = indices.positions[0]
        block = self._reader.read_block(first)
        self.watch.fetched()
        samples = [each.sample for each in block]
        # How many of them are no fillers: what the statistics and ``mask`` count.
        indices.positions = [at for at, _ in block if first <= at < first + len(indices.positions)]
        self._draws.seed(self._generators, COLLATE, first)
        return self._collate(samples if self._batched else samples[0], place)


class LoadedItems:
    """A dataset whose iterator yields items that its ``load`` makes samples of, by item.

    The training process reads the items; workers load them, as if they were indices.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, item: Any) -> Any:
        return self.dataset.load(item)


class AwaitedItems(LoadedItems):
    """The same where ``load`` is an ``async def``."""

    async def __getitem__(self, item: Any) -> Any:
        return await self.dataset.load(item)


def as_map_style(dataset: Any) -> LoadedItems:
    """A dataset whose indices are the items that an iterable one yields."""
    kind = AwaitedItems if inspect.iscoroutinefunction(dataset.load) else LoadedItems
    return kind(dataset)


def loads_items(dataset: Any) -> bool:
    """Whether a dataset's iterator yields items for its ``load``."""
    return callable(getattr(dataset, "load", None))
