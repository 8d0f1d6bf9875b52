"""Make the index batches of a loader's own batch sampler without a list of Python integers each.

Runs in: consumer.
Takes: torch's ``BatchSampler`` over a sampler that is known here.
Gives: the batches that its pass gives, with the same random draws, in a form that costs less to
make, to send and to gather with.

Only exact types are known: whatever a user wrote is asked as torch asks it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import BatchSampler, SequentialSampler

from fastload._torch_private import InfiniteSampler
from fastload._wire.indices import Compact
from fastload.samplers.random import RandomSampler


def is_known(batch_sampler: Any) -> bool:
    """Return whether nothing of a user's takes part, so that all randomness is torch's."""
    if type(batch_sampler) is not BatchSampler or BatchSampler.__iter__ is not _BATCHES:
        return False
    kind = type(batch_sampler.sampler)
    return kind in _KNOWN and kind.__iter__ is _PASSES[kind]


def compact(batch_sampler: Any) -> Iterator[Compact] | None:
    """Return a pass over a batch sampler's batches, or None if it must be asked itself.

    As torch's, the pass draws nothing and asks nobody before the first batch is wanted.
    """
    return _KNOWN[type(batch_sampler.sampler)](batch_sampler) if is_known(batch_sampler) else None


class _Cut:
    """Says how a pass is cut; asks for ``drop_last`` and ``batch_size`` exactly when torch does."""

    def __init__(self, batch_sampler: Any) -> None:
        self.drop_last = batch_sampler.drop_last
        self._batch_sampler = batch_sampler
        self._size = batch_sampler.batch_size

    def size(self) -> int:
        """Return the size of the next batch; 0 ends the pass."""
        size: int = self._size if self.drop_last else self._batch_sampler.batch_size
        if size < 0:
            itertools.islice((), size)  # raises torch's error
        return size


def _in_order(batch_sampler: Any) -> Iterator[Compact]:
    whole = range(len(batch_sampler.sampler.data_source))
    cut, start = _Cut(batch_sampler), 0
    while batch := whole[start : start + (size := cut.size())]:
        start += len(batch)
        if len(batch) < size and cut.drop_last:
            return
        yield Compact(batch)


def _for_ever(batch_sampler: Any) -> Iterator[Compact]:
    """Yield batches for a stream, of whose indices only the number means anything."""
    cut = _Cut(batch_sampler)
    while size := cut.size():
        yield Compact(range(size))


def _shuffled(batch_sampler: Any) -> Iterator[Compact]:
    """Cut drawn arrays to batches.

    Each array is drawn when torch draws it: before the first batch that needs any of it.
    """
    cut = _Cut(batch_sampler)
    rest: npt.NDArray[Any] = np.empty(0, np.int32)
    size = cut.size()
    for drawn in batch_sampler.sampler.arrays() if size else ():
        whole = np.concatenate([rest, drawn]) if len(rest) else drawn
        start = 0
        while start + size <= len(whole):
            yield Compact(whole[start : start + size].copy())
            start += size
            size = cut.size()
            if not size:
                return
        rest = whole[start:].copy()
        del drawn, whole  # millions of indices, before as many are drawn again
    if len(rest) and not cut.drop_last:
        yield Compact(rest)


_KNOWN: dict[type, Callable[[Any], Iterator[Compact]]] = {
    SequentialSampler: _in_order,
    RandomSampler: _shuffled,
    InfiniteSampler: _for_ever,
}

# A program may put others in their place.
_BATCHES = BatchSampler.__iter__
_PASSES = {kind: kind.__iter__ for kind in _KNOWN}  # type: ignore[attr-defined]  # samplers have it
