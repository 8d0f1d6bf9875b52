"""What all fetchers of map-style datasets share: they collate alike, and errors say where.

Runs in: worker (consumer with ``num_workers=0``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from fastload._loading.dataset_state import StateSource
from fastload._loading.stopwatch import Watch
from fastload._memory.write import Place
from fastload._system.interruptions import is_from_outside, own_suppressed
from fastload.collate.explain import explain
from fastload.collate.inplace import Collate, collate_in_place
from fastload.collate.propose import propose
from fastload.errors import CollateError, annotate, show


class MapFetcher:
    """What reads a map-style dataset, a batch or a sample at a time.

    Args:
        dataset: What samples are read of.
        collate: Makes a batch of samples.
        before_collate: Called between fetching samples and collating them.
    """

    source: StateSource | None = None

    def __init__(
        self, dataset: Any, collate: Collate, before_collate: Callable[[], object]
    ) -> None:
        self._dataset = dataset
        self._collate = collate
        self._before_collate = before_collate
        self.watch = Watch()

    def _collate_batch(self, samples: list[Any], indices: Sequence[Any], place: Place) -> Any:
        """Make a batch of samples that have just been fetched."""
        self.watch.fetched()
        self._before_collate()
        try:
            return self._collate(samples, place)
        except BaseException as error:
            annotate(error, f"while collating the samples at dataset indices {show(indices)}")
            explain_failure(error, self._collate, samples, indices)
            raise

    def _collate_one(self, sample: Any, index: Any, place: Place) -> Any:
        """Convert a sample that has just been fetched, with automatic batching off."""
        self.watch.fetched()
        self._before_collate()
        try:
            return self._collate(sample, place)
        except BaseException as error:
            annotate(error, f"while collating the sample at dataset index {show(index)}")
            raise


def nothing() -> None:
    """Do nothing between fetching and collating."""


def explain_failure(
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


def annotate_sample(error: BaseException, index: Any) -> None:
    """Add which sample an error came from."""
    annotate(error, f"while loading the sample at dataset index {show(index)}")


def not_silent(index: Any) -> RuntimeError:
    """Make an error of a stray StopIteration, as PEP 479 does: it must not end the epoch."""
    return RuntimeError(
        f"the dataset raised StopIteration for index {show(index)}. In torch's DataLoader this "
        f"silently ends the epoch. Raise IndexError or another exception instead."
    )
