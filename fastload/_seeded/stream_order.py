"""The stream of a map-style dataset: which index stands at which position of an epoch.

Runs in: consumer.
Takes: the loader's sampler or batch sampler, its seed and an epoch.
Gives: the indices at the positions of each batch, and what identifies the order in a state.

An order that can be computed is asked for the positions of this rank alone. Any other sampler is
walked along, on every rank alike, while the generators hold states made of seed and epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice, repeat
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DistributedSampler, SequentialSampler

from fastload._seeded.generators import GLOBAL
from fastload._seeded.own_streams import is_own_stream
from fastload._seeded.owned import find_generators
from fastload._seeded.seeds import SAMPLER, EpochDraws
from fastload._seeded.steps import StepBatch, positions
from fastload._seeded.stream_loader import StreamLoader
from fastload._wire.indices import Compact
from fastload.samplers.epochs import EpochSampler, nested
from fastload.samplers.permutation import Permutation
from fastload.samplers.sharding import Shard

MOST_BLOCKS = 64
"""Batches whose shuffled indices are computed at a time, after the first few."""


class Order(Protocol):
    """The order of an epoch's samples."""

    def identity(self) -> dict[str, Any]:
        """What the order follows from besides seed and epoch: plain values for a state."""

    def length(self) -> int:
        """Number of samples (with a batch sampler: batches) in an epoch."""

    def indices(self, epoch: int, blocks: Iterable[StepBatch]) -> Iterator[Any]:
        """The dataset indices of each block, in the form in which a worker is sent them."""


class ComputedOrder:
    """In order, or shuffled by the permutation of ``fastload.ShuffleSampler``.

    Args:
        length: Number of samples.
        seed: Seed of the permutation; None for the order of the dataset.
    """

    def __init__(self, length: int, seed: int | None) -> None:
        self._length = length
        self._seed = seed

    def identity(self) -> dict[str, Any]:
        return {"sampler": "SequentialSampler" if self._seed is None else "ShuffleSampler"}

    def length(self) -> int:
        return self._length

    def indices(self, epoch: int, blocks: Iterable[StepBatch]) -> Iterator[Compact]:
        if self._seed is None:
            for block in blocks:
                yield Compact(_numbers(block, self._length))
            return
        permutation = Permutation(self._length, self._seed, epoch)
        waiting, most = iter(blocks), 1
        while group := list(islice(waiting, most)):
            # A permutation of many positions at once takes hardly longer than one of few.
            places = [_array(block, self._length) for block in group]
            found = permutation(np.concatenate(places))
            for part in np.split(found, np.cumsum([len(each) for each in places])[:-1]):
                yield Compact(part)
            most = min(2 * most, MOST_BLOCKS)


class WalkedOrder:
    """The order of a sampler, or of a batch sampler, that was given to the loader.

    Args:
        sampler: Yields an index, or a list of indices, for each position.
        seed: The loader's seed.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self._sampler = sampler
        self._seed = seed

    def identity(self) -> dict[str, Any]:
        kinds = [f"{type(each).__module__}.{type(each).__qualname__}" for each in self._samplers()]
        seeds = [each.seed for each in self._samplers() if isinstance(each, EpochSampler)]
        return {"sampler": " of ".join(kinds), "sampler_seeds": seeds}

    def length(self) -> int:
        return len(self._sampler)

    def indices(self, epoch: int, blocks: Iterable[StepBatch]) -> Iterator[Any]:
        walk: SamplerPass | None = None
        for block in blocks:
            if walk is None:
                walk = SamplerPass(self._sampler, EpochDraws(self._seed, epoch), block.first)
            found = walk.take(block.first, block.samples)
            if block.fillers:
                found += self._fillers(epoch, block)
            yield found

    def _fillers(self, epoch: int, block: StepBatch) -> list[Any]:
        """Samples of the stream's beginning, over and over if they are not enough."""
        length = self.length()
        first = SamplerPass(self._sampler, EpochDraws(self._seed, epoch), 0)
        wanted = positions(block, length)[block.samples :]
        found = first.take(0, max(wanted) + 1)
        return [found[position] for position in wanted]

    def _samplers(self) -> list[Any]:
        return nested(self._sampler)


class SamplerPass:
    """One pass of a sampler, which draws from generators that belong to the pass.

    Samplers that have ``set_epoch`` are told the epoch. While the sampler is asked, the global
    generators and those that it holds are in states that follow from seed and epoch; afterwards the
    program finds them as they were.

    Args:
        sampler: The sampler.
        draws: Seeds of the epoch.
        start: Position of the first element that will be wanted.
    """

    def __init__(self, sampler: Any, draws: EpochDraws, start: int) -> None:
        self._generators: list[Any] = [*GLOBAL, *find_generators(sampler, "sampler")]
        programs = self._save()
        try:
            draws.seed(self._generators, SAMPLER, 0)
            for each in nested(sampler):
                if hasattr(each, "set_epoch"):
                    each.set_epoch(draws.epoch)
            reaches = hasattr(sampler, "iter_from")
            self._position = start if reaches else 0
            self._indices = sampler.iter_from(start) if reaches else iter(sampler)
            self._states = self._save()
        finally:
            self._restore(programs)

    def take(self, first: int, count: int) -> list[Any]:
        """The elements at positions ``first`` and the ``count - 1`` after it, not before others.

        Raises:
            RuntimeError: The sampler ended before, although its length says more.
        """
        programs = self._save()
        self._restore(self._states)
        try:
            # Not islice, which calls the iterator's __iter__: it may begin anew then.
            if count:
                deque(map(next, repeat(self._indices, first - self._position)), maxlen=0)
            found = list(map(next, repeat(self._indices, count)))
            self._states = self._save()
        finally:
            self._restore(programs)
        self._position = first + count
        if len(found) < count:
            raise RuntimeError(
                f"the sampler ended behind {first + len(found)} elements, but its length said that "
                f"there are at least {first + count}"
            )
        return found

    def _save(self) -> list[Any]:
        return [each.save() for each in self._generators]

    def _restore(self, states: list[Any]) -> None:
        for each, state in zip(self._generators, states, strict=True):
            each.restore(state)


def order_of(loader: StreamLoader) -> Order:
    """The order of a loader's stream, with ``seed=``.

    Raises:
        ValueError: The sampler gives each rank a part already.
    """
    assert loader._stream_seed is not None
    if is_own_stream(loader.dataset):
        return ComputedOrder(loader.dataset.seeded_length, None)
    if loader._own_order is not None:
        return ComputedOrder(
            len(loader.dataset), loader._stream_seed if loader._own_order else None
        )
    sampler = loader.batch_sampler if has_own_batches(loader) else loader.sampler
    check_sampler(sampler)
    if type(sampler) is SequentialSampler:
        return ComputedOrder(len(sampler), None)
    return WalkedOrder(sampler, loader._stream_seed)


def has_own_batches(loader: StreamLoader) -> bool:
    """Whether the loader was given a batch sampler: positions then count batches."""
    return loader.batch_size is None and loader.batch_sampler is not None


def check_sampler(sampler: Any) -> None:
    """Refuse samplers that deal to ranks: with a seed, the loader itself does.

    The own sampler of a loader with ``seed=`` is none of them; trainers put it into others.

    Raises:
        ValueError: There is such a sampler, at any depth.
    """
    for each in nested(sampler):
        if isinstance(each, Shard):
            raise ValueError(  # noqa: TRY004  (of an argument that another one excludes)
                f"seed= deals the stream to ranks itself, but the sampler is a fastload Shard for "
                f"rank {each.rank} of {each.num_replicas}; give the sampler inside it instead: "
                f"sampler={type(each.source).__name__}(...)"
            )
        if isinstance(each, DistributedSampler) and not hasattr(each, "deals_for"):
            raise ValueError(
                f"seed= deals the stream to ranks itself, but the sampler is a "
                f"{type(each).__name__} for rank {each.rank} of {each.num_replicas}; "
                + (
                    "Lightning put it around yours: Trainer(use_distributed_sampler=False)"
                    if "lightning" in type(each).__module__
                    else f"give shuffle={each.shuffle} instead of a sampler"
                )
            )


def _numbers(block: StepBatch, length: int) -> Any:
    if not block.fillers:
        return range(block.first, block.first + block.samples)
    return _array(block, length)


def _array(block: StepBatch, length: int) -> Any:
    if not block.fillers:
        return np.arange(block.first, block.first + block.samples)
    return np.array(positions(block, length), np.int64)
