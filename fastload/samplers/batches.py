"""The index batches of a loader's own batch sampler, without a list of Python integers each.

Runs in: consumer.
Takes: torch's ``BatchSampler`` over a sampler that is known here.
Gives: what its pass gives, batch for batch and draw for draw, in a form that costs less to make, to
send and to gather with.

Only exact types are known: whatever a user wrote is asked as torch asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import BatchSampler, SequentialSampler

from fastload.indices import Compact
from fastload.internals import InfiniteSampler
from fastload.samplers.random import RandomSampler


def is_known(batch_sampler: Any) -> bool:
    """Whether nothing of a user's takes part: all randomness in it is torch's."""
    return type(batch_sampler) is BatchSampler and type(batch_sampler.sampler) in _KNOWN


def compact(batch_sampler: Any) -> Iterator[Compact] | None:
    """A pass over a batch sampler's batches, or None if it must be asked itself.

    As torch's, it draws nothing and asks nobody before the first batch is wanted.
    """
    return _KNOWN[type(batch_sampler.sampler)](batch_sampler) if is_known(batch_sampler) else None


def _in_order(batch_sampler: Any) -> Iterator[Compact]:
    whole = range(len(batch_sampler.sampler.data_source))
    start = 0
    while batch := whole[start : start + batch_sampler.batch_size]:
        start += len(batch)
        if len(batch) < batch_sampler.batch_size and batch_sampler.drop_last:
            return
        yield Compact(batch)


def _for_ever(batch_sampler: Any) -> Iterator[Compact]:
    """Of a stream's indices only the number means anything."""
    while True:
        yield Compact(range(batch_sampler.batch_size))


def _shuffled(batch_sampler: Any) -> Iterator[Compact]:
    """Cut arrays; the next one is drawn when torch draws it: before a batch that it would fill."""
    rest: npt.NDArray[Any] = np.empty(0, np.int32)
    for drawn in batch_sampler.sampler.arrays():
        whole = np.concatenate([rest, drawn]) if len(rest) else drawn
        start, end = 0, batch_sampler.batch_size
        while end <= len(whole):
            yield Compact(whole[start:end].copy())
            start, end = end, end + batch_sampler.batch_size
        rest = whole[start:].copy()
        del drawn, whole  # millions of indices, before as many are drawn again
    if len(rest) and not batch_sampler.drop_last:
        yield Compact(rest)


_KNOWN: dict[type, Callable[[Any], Iterator[Compact]]] = {
    SequentialSampler: _in_order,
    RandomSampler: _shuffled,
    InfiniteSampler: _for_ever,
}
