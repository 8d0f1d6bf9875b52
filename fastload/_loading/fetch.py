"""Get the samples of one task from the dataset.

Runs in: worker (consumer with ``num_workers=0``).
Takes: what the sampler yielded: the indices of a batch, one index, or placeholders for a stream.
Gives: the samples, still to be collated, or a batch gathered in one operation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol

from torch.utils.data import Dataset

from fastload._loading.concurrent import (
    Concurrency,
    ConcurrentFetcher,
    ConcurrentSampleFetcher,
    awaits_samples,
)
from fastload._loading.dataset_state import (
    DatasetState,
    StateSource,
    load_into_dataset,
    open_stream,
)
from fastload._loading.map_style import (
    MapFetcher,
    annotate_sample,
    explain_failure,
    not_silent,
    nothing,
)
from fastload._loading.on_error import (
    ForgivingDataset,
    ForgivingIterator,
    NothingLeft,
    Tolerance,
)
from fastload._loading.stopwatch import Watch
from fastload._memory.write import Place, SlotPlace
from fastload._wire.indices import plain
from fastload.collate.inplace import Collate, collate_in_place, convert
from fastload.datasets.gather import gatherer
from fastload.datasets.nodes import MakesBatches, NotGatherableError, WritesItems
from fastload.errors import annotate, show


class EndOfStream(Exception):  # noqa: N818  (as StopIteration: an end, not an error)
    """An iterable dataset has no more samples for this worker."""


class Fetcher(Protocol):
    """How one kind of dataset is read."""

    watch: Watch

    @property
    def source(self) -> StateSource | None:
        """Where the dataset's state can be asked for; None if the loader does not need it."""

    def fetch(self, indices: Any, place: Place) -> Any:
        """Load and collate one batch.

        Raises:
            EndOfStream: An iterable dataset has ended.
            NothingLeft: No sample of the batch could be loaded, and errors are tolerated.
            Exception: Whatever the dataset or the collate function raises, with a note that
                names the sample.
        """


def make_fetcher(
    dataset: Dataset[Any],
    *,
    iterable: bool,
    batched: bool,
    collate: Collate,
    drop_last: bool,
    tolerance: Tolerance | None = None,
    is_live: bool = False,
    state: DatasetState | None = None,
    read_through: Callable[[Any], Any] | None = None,
    before_collate: Callable[[], object] = nothing,
    gathers: bool = True,
    concurrency: Concurrency | None = None,
) -> Fetcher:
    """Choose the fetcher once; for an iterable dataset this calls its ``__iter__``.

    Args:
        dataset: What is read.
        iterable: Whether it is a stream.
        batched: Whether its samples are made into batches.
        collate: Makes a batch of samples.
        drop_last: Whether a stream's last batch is left out if it is not full.
        tolerance: What is done with samples that can't be loaded; None: their errors are raised.
        is_live: Whether the program itself has the dataset and may change it between batches.
        state: What the dataset is to go on from; None: from its beginning.
        read_through: Puts an object between a map-style dataset and whatever reads samples of it.
        before_collate: Called between fetching the samples of a map-style dataset and collating.
        gathers: Whether batches of data in memory may be read by one index operation a field.
        concurrency: How samples of a map-style dataset load at a time; None: one after another.
    """
    if iterable:
        return _StreamFetcher(dataset, batched, collate, drop_last, tolerance, state)
    load_into_dataset(dataset, state)
    fetcher = _make_map_fetcher(
        dataset if read_through is None else read_through(dataset),
        collate,
        before_collate,
        concurrency,
        tolerance,
        batched=batched,
    )
    if batched and gathers and collate is collate_in_place:
        gather = gatherer(dataset, is_live=is_live, is_concurrent=concurrency is not None)
        if gather is not None:
            fetcher = GatherFetcher(gather, fetcher)
    fetcher.source = StateSource(dataset)
    return fetcher


def _make_map_fetcher(
    readable: Any,
    collate: Collate,
    before_collate: Callable[[], object],
    concurrency: Concurrency | None,
    tolerance: Tolerance | None,
    *,
    batched: bool,
) -> _BatchFetcher | _SampleFetcher | ConcurrentFetcher | GatherFetcher:
    """What reads samples, one after another or at a time."""
    if concurrency is not None and (batched or awaits_samples(readable)):
        kind = ConcurrentFetcher if batched else ConcurrentSampleFetcher
        return kind(readable, collate, before_collate, concurrency, tolerance)
    if tolerance is not None:
        readable = ForgivingDataset(readable, tolerance)
    plain_kind = _BatchFetcher if batched else _SampleFetcher
    return plain_kind(readable, collate, before_collate)


class _BatchFetcher(MapFetcher):
    """A batch of a map-style dataset."""

    def fetch(self, indices: Any, place: Place) -> Any:
        dataset = self._dataset
        indices = plain(indices)
        if hasattr(dataset, "__getitems__") and dataset.__getitems__:
            samples = dataset.__getitems__(indices)
            if isinstance(dataset, ForgivingDataset):
                indices = dataset.loaded
        else:
            index: Any = None
            timed = self.watch.start(dataset)
            try:
                samples = [timed[index := each] for each in indices]
            except StopIteration as error:
                raise not_silent(index) from error
            except BaseException as error:
                annotate_sample(error, index)
                raise
        return self._collate_batch(samples, indices, place)


class _SampleFetcher(MapFetcher):
    """One sample of a map-style dataset, with automatic batching off."""

    def fetch(self, index: Any, place: Place) -> Any:
        try:
            sample = self.watch.start(self._dataset)[index]
        except StopIteration as error:
            raise not_silent(index) from error
        except NothingLeft:
            raise
        except BaseException as error:
            annotate_sample(error, index)
            raise
        return self._collate_one(sample, index, place)


class GatherFetcher:
    """A batch of a dataset that lies in memory: one index operation a field."""

    source: StateSource | None = None

    def __init__(self, gather: Any, otherwise: Fetcher) -> None:
        self._gather = gather
        self._otherwise = otherwise
        self.watch = otherwise.watch

    def fetch(self, indices: Any, place: Place) -> Any:
        self.watch.begin()
        try:
            batch = self._gather(indices, place)
        except NotGatherableError:
            if isinstance(place, SlotPlace):
                place.empty()  # of what was gathered before it was seen that not all can be
            return self._otherwise.fetch(indices, place)
        except BaseException as error:
            annotate(error, f"while loading the samples at dataset indices {show(indices)}")
            raise
        self.watch.fetched()
        return batch


class _StreamFetcher:
    """Batches, or single samples, of an iterable dataset."""

    def __init__(
        self,
        dataset: Any,
        batched: bool,
        collate: Collate,
        drop_last: bool,
        tolerance: Tolerance | None,
        state: DatasetState | None,
    ) -> None:
        self._samples: Any = open_stream(dataset, state)
        self.source = StateSource(dataset, self._samples)
        self.source.has_ended = state is not None and state.has_ended and not state.is_over
        if tolerance is not None:
            self._samples = ForgivingIterator(self._samples, tolerance)
        self._batched = batched
        self._collate = collate
        self._drop_last = drop_last
        # Of ours, which write ready batches where they will lie; nothing else may see them there.
        writes_items = collate is convert and isinstance(self._samples, WritesItems)
        self._next_into: Any = self._samples.next_into if writes_items else None
        is_usual = batched and collate is collate_in_place
        makes_batches = is_usual and isinstance(self._samples, MakesBatches)
        self._next_batch: Any = self._samples.next_batch if makes_batches else None
        self.watch = Watch()

    def fetch(self, indices: Any, place: Place) -> Any:
        if self.source.has_ended:
            raise EndOfStream
        if not self._batched:
            try:
                into = self._next_into
                sample = next(self._samples) if into is None else into(place)
            except StopIteration:
                raise EndOfStream from None
            self.watch.fetched()
            return self._collate(sample, place)
        if self._next_batch is not None and (made := self._make_batch(len(indices), place)):
            return made[0]
        # Not islice, which would call the iterator's __iter__ for each batch.
        samples = [*map(next, itertools.repeat(self._samples, len(indices)))]
        self.source.has_ended = len(samples) < len(indices)
        if not samples or (self._drop_last and len(samples) < len(indices)):
            raise EndOfStream
        self.watch.fetched()
        try:
            return self._collate(samples, place)
        except BaseException as error:
            explain_failure(error, self._collate, samples, None)
            raise

    def _make_batch(self, count: int, place: Place) -> tuple[Any] | None:
        """Return a batch that the stream itself makes in its place; None: it can't make this one.

        Raises:
            EndOfStream: It is not full, and such a batch is left out.
        """
        made = self._next_batch(count, place)
        if made is None:
            if isinstance(place, SlotPlace):
                place.empty()  # of what was decoded before it was seen that it can't be made
            return None
        samples, batch = made
        self.source.has_ended = samples < count
        if self._drop_last and samples < count:
            raise EndOfStream
        self.watch.fetched()
        return (batch,)
