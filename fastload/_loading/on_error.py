"""Samples that can't be loaded: leave them out, or put others in their place.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the dataset's exception and the index.
Gives: a sample to use instead, or that there is none; and a record of each for the consumer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

from fastload._system.interruptions import is_from_outside
from fastload._wire import exceptions
from fastload._wire.messages import Skip
from fastload.errors import annotate, show

OnError = Literal["raise", "skip"] | Callable[[Exception, Any], Any]

LEFT_OUT: Final = object()
"""In place of a sample: there is none."""


class NothingLeft(Exception):  # noqa: N818  (what became of the batch, not an error)
    """No sample of a batch could be loaded."""


class Tolerance:
    """What one worker does with samples that fail, and which those were."""

    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self._skipped: list[Skip] = []

    def stand_in(self, index: Any, error: Exception) -> Any:
        """What to use in place of the sample, or LEFT_OUT.

        Raises:
            Exception: Whatever the user's callable raises.
        """
        sample = None
        if callable(self._on_error):
            try:
                sample = self._on_error(error, index)
            except Exception as raised:
                if is_from_outside(raised):
                    raise
                annotate(raised, f"raised by on_error for dataset index {show(index)}")
                raise
        self._skipped.append(Skip(index, exceptions.pack(error)))
        return LEFT_OUT if sample is None else sample

    def put_back(self, skipped: tuple[Skip, ...]) -> None:
        """Say again at the next call which samples failed: their batch has failed too."""
        self._skipped[:0] = skipped

    def take_skipped(self) -> tuple[Skip, ...]:
        """The samples that failed since the last call."""
        skipped, self._skipped = tuple(self._skipped), []
        return skipped


class ForgivingDataset:
    """A map-style dataset without the samples that can't be loaded."""

    def __init__(self, dataset: Any, tolerance: Tolerance) -> None:
        self._dataset = dataset
        self._tolerance = tolerance
        self.loaded: list[Any] = []

    def __getitems__(self, indices: Sequence[Any]) -> list[Any]:
        """The samples that could be loaded; ``loaded`` then names them."""
        samples = self._all_at_once(indices)
        if samples is not None:
            self.loaded = list(indices)
            return samples
        found = [(index, self._one(index)) for index in indices]
        kept = [(index, sample) for index, sample in found if sample is not LEFT_OUT]
        if not kept:
            raise NothingLeft
        self.loaded = [index for index, _ in kept]
        return [sample for _, sample in kept]

    def __getitem__(self, index: Any) -> Any:
        sample = self._one(index)
        if sample is LEFT_OUT:
            raise NothingLeft
        return sample

    def _all_at_once(self, indices: Sequence[Any]) -> list[Any] | None:
        """Of a dataset that loads whole batches; None if it does not, or could not."""
        load = getattr(self._dataset, "__getitems__", None)
        if not load:
            return None
        try:
            return list(load(indices))
        except Exception as error:
            if is_from_outside(error):
                raise
            return None  # one by one, it will be seen which it was

    def _one(self, index: Any) -> Any:
        try:
            return self._dataset[index]
        except Exception as error:
            if is_from_outside(error):  # no fault of the sample's
                raise
            return self._tolerance.stand_in(index, error)


class ForgivingIterator:
    """The samples of an iterable dataset without those that can't be loaded.

    A generator can't go on after an error, so that one is raised; an iterator of the user's own
    class is asked for the next sample.
    """

    def __init__(self, samples: Iterator[Any], tolerance: Tolerance) -> None:
        self._samples = samples
        self._tolerance = tolerance
        self._position = -1

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while True:
            self._position += 1
            try:
                return next(self._samples)
            except StopIteration:
                raise
            except Exception as error:
                if is_from_outside(error):
                    raise
                if inspect.isgenerator(self._samples):
                    annotate(error, "on_error can't go on here: a generator ends with its error")
                    raise
                sample = self._tolerance.stand_in(self._position, error)
                if sample is not LEFT_OUT:
                    return sample
