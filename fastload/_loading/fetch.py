"""Get the samples of one task from the dataset.

Runs in: worker (consumer with ``num_workers=0``).
Takes: what the sampler yielded: the indices of a batch, one index, or placeholders for a stream.
Gives: the samples, still to be collated, or a batch gathered in one operation.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch.utils.data import Dataset

from fastload._loading.dataset_state import (
    DatasetState,
    StateSource,
    load_into_dataset,
    open_stream,
)
from fastload._loading.on_error import (
    ForgivingDataset,
    ForgivingIterator,
    NothingLeft,
    Tolerance,
)
from fastload._loading.stopwatch import Watch
from fastload._memory.write import Place
from fastload._system.interruptions import is_from_outside, own_suppressed
from fastload._wire.indices import plain
from fastload.collate.explain import explain
from fastload.collate.inplace import Collate, collate_in_place, convert
from fastload.collate.propose import propose
from fastload.datasets.gather import gatherer
from fastload.datasets.nodes import NotGatherableError
from fastload.errors import CollateError, annotate, show


def _nothing() -> None:
    """Do nothing between fetching and collating."""


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
    before_collate: Callable[[], object] = _nothing,
    gathers: bool = True,
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
    """
    if iterable:
        return _StreamFetcher(dataset, batched, collate, drop_last, tolerance, state)
    load_into_dataset(dataset, state)
    readable: Any = dataset if read_through is None else read_through(dataset)
    if tolerance is not None:
        readable = ForgivingDataset(readable, tolerance)
    fetcher: _SampleFetcher | _BatchFetcher | GatherFetcher
    if not batched:
        fetcher = _SampleFetcher(readable, collate, before_collate)
    else:
        fetcher = _BatchFetcher(readable, collate, before_collate)
        may_gather = gathers and collate is collate_in_place
        gather = gatherer(dataset, is_live=is_live) if may_gather else None
        if gather is not None:
            fetcher = GatherFetcher(gather, fetcher)
    fetcher.source = StateSource(dataset)
    return fetcher


class _MapFetcher:
    """What reads a map-style dataset, a batch or a sample at a time."""

    source: StateSource | None = None

    def __init__(
        self, dataset: Any, collate: Collate, before_collate: Callable[[], object]
    ) -> None:
        self._dataset = dataset
        self._collate = collate
        self._before_collate = before_collate
        self.watch = Watch()


class _BatchFetcher(_MapFetcher):
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
                raise _not_silent(index) from error
            except BaseException as error:
                annotate(error, f"while loading the sample at dataset index {show(index)}")
                raise
        self.watch.fetched()
        self._before_collate()
        try:
            return self._collate(samples, place)
        except BaseException as error:
            annotate(error, f"while collating the samples at dataset indices {show(indices)}")
            _explain(error, self._collate, samples, indices)
            raise


class _SampleFetcher(_MapFetcher):
    """One sample of a map-style dataset, with automatic batching off."""

    def fetch(self, index: Any, place: Place) -> Any:
        try:
            sample = self.watch.start(self._dataset)[index]
            self.watch.fetched()
        except StopIteration as error:
            raise _not_silent(index) from error
        except NothingLeft:
            raise
        except BaseException as error:
            annotate(error, f"while loading the sample at dataset index {show(index)}")
            raise
        self._before_collate()
        try:
            return self._collate(sample, place)
        except BaseException as error:
            annotate(error, f"while collating the sample at dataset index {show(index)}")
            raise


class GatherFetcher:
    """A batch of a dataset that lies in memory: one index operation a field."""

    source: StateSource | None = None

    def __init__(self, gather: Any, otherwise: Fetcher) -> None:
        self._gather = gather
        self._otherwise = otherwise
        self.watch = otherwise.watch

    def fetch(self, indices: Any, place: Place) -> Any:
        try:
            batch = self._gather(indices, place)
        except NotGatherableError:
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
        is_ours = collate is convert and hasattr(type(self._samples), "next_into")
        self._next_into: Any = self._samples.next_into if is_ours else None
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
        # Not islice, which would call the iterator's __iter__ for each batch.
        samples = [*map(next, itertools.repeat(self._samples, len(indices)))]
        self.source.has_ended = len(samples) < len(indices)
        if not samples or (self._drop_last and len(samples) < len(indices)):
            raise EndOfStream
        self.watch.fetched()
        try:
            return self._collate(samples, place)
        except BaseException as error:
            _explain(error, self._collate, samples, None)
            raise


def _explain(
    error: BaseException, collate: Collate, samples: Sequence[Any], indices: Sequence[Any] | None
) -> None:
    """Add which samples a collate function failed on, and what would have worked."""
    if is_from_outside(error):
        return
    with own_suppressed(Exception), warnings.catch_warnings():  # samples may be anything
        warnings.simplefilter("ignore")
        if collate is collate_in_place and (why := explain(samples, indices)):
            annotate(error, f"{why}. {propose(samples)}")
        elif isinstance(error, CollateError) and indices is not None:
            for position in (error.position, error.compared_with):
                if position is not None:
                    at = show(indices[position])
                    annotate(error, f"position {position} of the batch is dataset index {at}")


def _not_silent(index: Any) -> RuntimeError:
    """Make an error of a stray StopIteration, as PEP 479 does: it must not end the epoch."""
    return RuntimeError(
        f"the dataset raised StopIteration for index {show(index)}. In torch's DataLoader this "
        f"silently ends the epoch. Raise IndexError or another exception instead."
    )
