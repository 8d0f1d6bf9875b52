"""One pass over a seeded stream, and which epoch the next pass is.

Runs in: consumer.
Takes: a loader with ``seed=``.
Gives: the tasks of this rank, and where the stream stands after each batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from fastload._epoch.loader import Loader
from fastload._epoch.resume import EpochPosition
from fastload._loading.fetch import EndOfStream
from fastload._seeded.loading import DrawnGenerators, ProgramGenerators
from fastload._seeded.own_streams import is_own_stream, makes_batches
from fastload._seeded.replicas import ranks_of
from fastload._seeded.seeds import ITERATOR, EpochDraws
from fastload._seeded.state import length_of
from fastload._seeded.steps import Even, StepBatch, Steps, positions
from fastload._seeded.stream_order import has_own_batches, order_of
from fastload._seeded.streams import StreamReader, loads_items
from fastload._wire.indices import Compact, PositionedIndices
from fastload._wire.messages import SeededBegin
from fastload.samplers.epochs import natural, nested
from fastload.stats.counters import Counters
from fastload.stats.rows import Row


class SeededPass(Protocol):
    """One pass over the stream of an epoch, from a position on.

    Attributes:
        begin: Where the pass begins, and how it is dealt.
        draws: The seeds of the epoch.
        progress: Counts the batches that were delivered or left out; the iterator keeps it.
    """

    begin: SeededBegin
    draws: EpochDraws
    progress: EpochPosition

    def tasks(self) -> Iterator[PositionedIndices]:
        """The indices and positions of each of this rank's batches."""

    @property
    def position(self) -> int:
        """Where the stream goes on behind the batches that were delivered."""

    @property
    def is_complete(self) -> bool:
        """Whether the last step was delivered, or the end of this rank's batches was seen."""

    def mask(self, counters: Counters) -> Tensor:
        """Which samples of the newest batch are no fillers; bool ``(batch,)``."""


class MapPass:
    """A pass over a map-style dataset, whose length is known."""

    def __init__(self, loader: Loader, begin: SeededBegin) -> None:
        self.begin = begin
        self.draws = EpochDraws(begin.seed, begin.epoch)
        self.progress = EpochPosition({}, 0, loader.num_workers)
        self._order = order_of(loader)
        self._steps = steps_of(self._order.length(), begin)
        self._has_own_batches = has_own_batches(loader)
        self._is_batched = loader.batch_size is not None or makes_batches(loader.dataset)

    def tasks(self) -> Iterator[PositionedIndices]:
        """The indices and positions of each of this rank's batches."""
        found = self._order.indices(self.begin.epoch, self._steps)
        for block, indices in zip(self._steps, found, strict=True):
            at = _positions(block, self._steps.length)
            if self._is_batched:
                yield PositionedIndices(at, indices)
                continue
            (one,) = indices.tolist() if isinstance(indices, Compact) else indices
            yield PositionedIndices(_inside(at[0], one) if self._has_own_batches else at, one)

    @property
    def position(self) -> int:
        """Where the stream goes on behind the batches that were delivered."""
        return self._steps.position_after(self.progress.yielded)

    @property
    def is_complete(self) -> bool:
        """Whether the last step was delivered, or the end of this rank's batches was seen.

        With ``even="none"`` a rank may have one batch less than others: as long as its end was not
        seen, its state is that of all ranks which took as many steps.
        """
        return self.progress.is_finished or self.progress.yielded >= self._steps.total

    def mask(self, counters: Counters) -> Tensor:  # noqa: ARG002  (the steps say it)
        """Which samples of the newest batch are no fillers; bool ``(batch,)``."""
        steps = self._steps
        last = steps.last() if self.progress.yielded > steps.whole else None
        block = StepBatch(0, steps.batch_size) if last is None else last
        return _mask(block.samples, block.fillers)


class StreamPass:
    """A pass over an iterable dataset, which one worker reads."""

    def __init__(self, loader: Loader, begin: SeededBegin) -> None:
        self.begin = begin
        self.draws = EpochDraws(begin.seed, begin.epoch)
        self.progress = EpochPosition({}, 0, loader.num_workers)
        self._length = length_of(loader.dataset)
        self._is_batched = loader.batch_size is not None
        self._knows_fillers = loader.on_error == "raise"

    def tasks(self) -> Iterator[PositionedIndices]:
        """A task for each step; whoever reads the stream says where it ends."""
        begin, size = self.begin, self.begin.batch_size
        offset, step_size = begin.rank * size, begin.ranks * size
        for first in itertools.count(begin.start + offset, step_size):
            indices = Compact(range(size)) if self._is_batched else None
            yield PositionedIndices(range(first, first + size), indices)

    @property
    def position(self) -> int:
        """Where the stream goes on behind the batches that were delivered."""
        begin = self.begin
        position = begin.start + self.progress.yielded * begin.ranks * begin.batch_size
        return position if self._length is None else min(position, self._length)

    @property
    def is_complete(self) -> bool:
        """Whether the end was seen, or the last step of a dataset of known length delivered."""
        if self.progress.is_finished or self._length is None:
            return self.progress.is_finished
        return self.progress.yielded >= steps_of(self._length, self.begin).total

    def mask(self, counters: Counters) -> Tensor:
        """Which samples of the newest batch are no fillers; bool ``(batch,)``.

        Raises:
            ValueError: Samples that can't be loaded are left out, so the number says nothing.
        """
        begin = self.begin
        if not self._knows_fillers:
            raise ValueError(
                "mask() of an iterable dataset needs on_error='raise': where samples are left out, "
                "their number does not tell which are fillers"
            )
        samples = int(counters.rows()[-1, Row._fields.index("samples")])
        is_filled = begin.ranks > 1 and begin.even in ("pad", "mask")
        return _mask(samples, begin.batch_size - samples if is_filled else 0)


class ItemsPass(StreamPass):
    """A pass over an iterable dataset of items: read here, loaded by whichever worker is next."""

    def __init__(self, loader: Loader, begin: SeededBegin) -> None:
        super().__init__(loader, begin)
        self._dataset = loader.dataset
        self._program = ProgramGenerators(DrawnGenerators(loader.dataset, None))

    def tasks(self) -> Iterator[PositionedIndices]:
        """The items and positions of each of this rank's batches."""
        reader = None
        for task in super().tasks():
            with self._program:
                if reader is None:
                    reader = StreamReader(self._dataset, self.begin, ITERATOR)
                try:
                    block = reader.read_block(task.positions[0])
                except EndOfStream:
                    return
            items = [each.sample for each in block]
            positions_of_items = [each.position for each in block]
            yield PositionedIndices(positions_of_items, items if self._is_batched else items[0])

    def mask(self, counters: Counters) -> Tensor:  # noqa: ARG002  (nothing says it)
        """Not known: fillers are loaded as any other item.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "mask() is not supported yet for datasets with load(item); use even='drop' or 'none'"
        )


def begin_pass(loader: Loader, epoch: int, start: int) -> SeededPass:
    """Begin a pass over the stream of an epoch, from a position on."""
    begin = begin_of(loader, epoch, start)
    if is_own_stream(loader.dataset):
        _check_rank(loader.dataset, begin)
        return MapPass(loader, begin)
    if not isinstance(loader.dataset, IterableDataset):
        return MapPass(loader, begin)
    return (ItemsPass if loads_items(loader.dataset) else StreamPass)(loader, begin)


def begin_of(loader: Loader, epoch: int = 0, start: int = 0) -> SeededBegin:
    """Where a pass begins and how it is dealt, as ranks and options are now."""
    assert loader._stream_seed is not None
    ranks, rank = ranks_of(loader)
    size, drop_last = loader.batch_size or 1, bool(loader.drop_last)
    if makes_batches(loader.dataset):
        size, drop_last = loader.dataset.batch_size, loader.dataset.drop_last
    return SeededBegin(
        loader._stream_seed, epoch, start, size, ranks, rank, drop_last, loader.even, loader.redo
    )


def steps_of(length: int, begin: SeededBegin) -> Steps:
    """The steps of a pass over a stream of known length."""
    return Steps(
        length,
        begin.start,
        begin.batch_size,
        begin.ranks,
        begin.rank,
        drop_last=begin.drop_last,
        even=cast("Even", begin.even),
    )


def _check_rank(stream: Any, begin: SeededBegin) -> None:
    """Refuse a stream that was told another rank than the loader is.

    Raises:
        ValueError: It was.
    """
    given = stream.given_rank
    if given is not None and given != (begin.rank, begin.ranks):
        raise ValueError(
            f"{type(stream).__name__} was given rank {given[0]} of {given[1]}, but the loader with "
            f"seed= deals to ranks itself and is rank {begin.rank} of {begin.ranks}; leave rank= "
            f"and world_size= of the stream out"
        )


class NewestEpoch:
    """``loader.epoch``: the epoch of the newest pass; before the first, the coming one.

    Without ``seed=``: the epoch that the sampler or the dataset was told last, or 0. It is no
    property, because a class of the user's may set an attribute of this name.
    """

    def __get__(self, loader: Any, cls: object = None) -> int:
        return self if loader is None else loader._live.epochs.newest_epoch(loader)  # type: ignore[return-value]


def count_batches(loader: Loader) -> int:
    """Batches of one whole epoch on this rank.

    Raises:
        TypeError: The dataset is iterable and has no length.
    """
    is_stream = isinstance(loader.dataset, IterableDataset) and not is_own_stream(loader.dataset)
    length = len(loader.dataset) if is_stream else order_of(loader).length()
    return len(steps_of(length, begin_of(loader)))


class EpochClock:
    """Says which epoch a loader's next pass is, and where it begins.

    Each pass is the next epoch by itself. ``set_epoch`` and a loaded state say otherwise; so does a
    ``set_epoch`` that somebody calls on a sampler or on the dataset, as trainers do.
    """

    def __init__(self) -> None:
        self.newest: SeededPass | None = None
        self._wanted: tuple[int, int] | None = None
        self._skipped = 0
        self._told: dict[int, int] = {}

    def coming(self, loader: Loader) -> tuple[int, int]:
        """Epoch and first position of the next pass."""
        epoch, start = self._without_skipping(loader)
        return epoch, max(start, self._skipped)

    def _without_skipping(self, loader: Loader) -> tuple[int, int]:
        self._look_at_others(loader)
        if self._wanted is not None:
            return self._wanted
        newest = self.newest
        if newest is None:
            return 0, 0
        if newest.progress.yielded == 0 and not newest.is_complete:
            return newest.begin.epoch, newest.begin.start  # nobody has got anything of it
        return newest.begin.epoch + 1, 0

    def begin(self, loader: Loader) -> SeededPass:
        """Begin the next pass; samplers and the dataset are told its epoch."""
        epoch, start = self.coming(loader)
        one = begin_pass(loader, epoch, start)
        for each in _told_of_epochs(loader):
            each.set_epoch(epoch)
        for each in _holders(loader):
            self._told[id(each)] = each.epoch
        self.newest, self._wanted, self._skipped = one, None, 0
        return one

    def newest_epoch(self, loader: Loader) -> int:
        """The epoch of the newest pass; before the first, of the coming one."""
        if loader._stream_seed is None:
            return max((each.epoch for each in _holders(loader)), default=0)
        return self.coming(loader)[0] if self.newest is None else self.newest.begin.epoch

    def set_epoch(self, loader: Loader, epoch: int) -> None:
        """Make the next pass that of an epoch; a position that was loaded for it stays."""
        epoch = natural("epoch", epoch)
        if loader._stream_seed is None:
            for each in _holders(loader):
                each.set_epoch(epoch)
            return
        before = self._without_skipping(loader)
        self._wanted = before if before[0] == epoch and self._wanted is not None else (epoch, 0)

    def resume(self, epoch: int, position: int) -> None:
        """Make the next pass go on where a state was taken."""
        self._wanted, self._skipped = (epoch, position), 0

    def skip(self, position: int) -> None:
        """Make the next pass begin at a position, whichever epoch it is."""
        self._skipped = position

    def stands_at(self, loader: Loader) -> tuple[int, int]:
        """Epoch and position for a state."""
        newest = self.newest
        if self._wanted is not None or self._skipped or newest is None:
            return self.coming(loader)
        return (
            (newest.begin.epoch + 1, 0)
            if newest.is_complete
            else (newest.begin.epoch, newest.position)
        )

    def _look_at_others(self, loader: Loader) -> None:
        """Take over the epoch that somebody gave to a sampler or to the dataset meanwhile."""
        for each in _holders(loader):
            told = self._told.get(id(each), 0)
            if each.epoch != told:
                self._told[id(each)] = each.epoch
                self._wanted = each.epoch, 0


def _holders(loader: Loader) -> list[Any]:
    """Samplers and the dataset, as far as they can be told an epoch and say which they have."""
    return [
        each for each in _told_of_epochs(loader) if isinstance(getattr(each, "epoch", None), int)
    ]


def _told_of_epochs(loader: Loader) -> list[Any]:
    """Samplers and the dataset, as far as they can be told an epoch."""
    found = [*nested(loader.sampler), *nested(loader.batch_sampler), loader.dataset]
    each_once = {id(each): each for each in found}.values()
    return [each for each in each_once if hasattr(each, "set_epoch")]


def _positions(block: StepBatch, length: int) -> range | list[int]:
    if not block.fillers:
        return range(block.first, block.first + block.samples)
    return positions(block, length)


def _inside(number: int, indices: Any) -> range:
    """Positions of the samples in a batch of a batch sampler: they follow from its number."""
    first = number << 32
    return range(first, first + len(indices))


def _mask(samples: int, fillers: int) -> Tensor:
    return torch.arange(samples + fillers, device="cpu") < samples
