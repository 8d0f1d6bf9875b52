"""One pass over a seeded stream, and which epoch the next pass is.

Runs in: consumer.
Takes: a loader with ``seed=``.
Gives: the tasks of this rank, and where the stream stands after each batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastload._epoch.resume import EpochPosition
from fastload._seeded.draws import EpochDraws
from fastload._seeded.order import Order, has_own_batches, order_of
from fastload._seeded.ranks import ranks_of
from fastload._seeded.steps import Block, Steps, positions
from fastload._wire.indices import PositionedIndices
from fastload.samplers.epochs import natural, nested


class SeededPass:
    """One pass over the stream of an epoch, from a position on.

    Attributes:
        epoch: Number of the epoch.
        draws: The seeds of the epoch.
        steps: This rank's batches.
        progress: Counts the batches that were delivered or left out; the iterator keeps it.
    """

    def __init__(self, loader: Any, epoch: int, start: int) -> None:
        self.epoch = epoch
        self.draws = EpochDraws(loader.seed, epoch)
        self.order = order_of(loader)
        self.steps = steps_of(loader, self.order, start)
        self.progress = EpochPosition({}, 0)
        self._has_own_batches = has_own_batches(loader)
        self._is_batched = loader.batch_size is not None

    def tasks(self) -> Iterator[PositionedIndices]:
        """The indices and positions of each of this rank's batches."""
        length = self.steps.length
        found = self.order.indices(self.epoch, self.steps)
        for block, indices in zip(self.steps, found, strict=True):
            at = _positions(block, length)
            if self._is_batched:
                yield PositionedIndices(at, indices)
                continue
            (one,) = indices.tolist() if hasattr(indices, "tolist") else indices
            yield PositionedIndices(_inside(at[0], one) if self._has_own_batches else at, one)

    @property
    def delivered(self) -> int:
        """How many of this rank's batches were delivered or left out."""
        return self.progress.yielded

    @property
    def position(self) -> int:
        """Where the stream goes on behind the batches that were delivered."""
        return self.steps.position_after(self.delivered)

    @property
    def is_complete(self) -> bool:
        """Whether the last step was delivered, or the end of this rank's batches was seen.

        With ``even="none"`` a rank may have one batch less than others: as long as its end was not
        seen, its state is that of all ranks which took as many steps.
        """
        return self.progress.is_finished or self.delivered >= self.steps.total

    def mask(self) -> Tensor:
        """Which samples of the newest batch are its own, and no fillers; bool ``(batch,)``."""
        last = self.steps.last() if self.delivered > self.steps.whole else None
        block = Block(0, self.steps.batch_size) if last is None else last
        return torch.arange(block.samples + block.fillers, device="cpu") < block.samples


class EpochClock:
    """Says which epoch a loader's next pass is, and where it begins.

    Each pass is the next epoch by itself. ``set_epoch`` and a loaded state say otherwise; so does a
    ``set_epoch`` that somebody calls on a sampler or on the dataset, as trainers do.
    """

    def __init__(self) -> None:
        self.newest: SeededPass | None = None
        self._wanted: tuple[int, int] | None = None
        self._told: dict[int, int] = {}

    def coming(self, loader: Any) -> tuple[int, int]:
        """Epoch and first position of the next pass."""
        self._look_at_others(loader)
        if self._wanted is not None:
            return self._wanted
        newest = self.newest
        if newest is None:
            return 0, 0
        if newest.delivered == 0 and not newest.is_complete:
            return newest.epoch, newest.steps.start  # nobody has got anything of it
        return newest.epoch + 1, 0

    def begin(self, loader: Any) -> SeededPass:
        """Begin the next pass; samplers and the dataset are told its epoch."""
        epoch, start = self.coming(loader)
        one = SeededPass(loader, epoch, start)
        for each in _holders(loader):
            each.set_epoch(epoch)
            self._told[id(each)] = epoch
        self.newest, self._wanted = one, None
        return one

    def newest_epoch(self, loader: Any) -> int:
        """The epoch of the newest pass; before the first, of the coming one."""
        if loader.seed is None:
            return max((each.epoch for each in _holders(loader)), default=0)
        return self.coming(loader)[0] if self.newest is None else self.newest.epoch

    def set_epoch(self, loader: Any, epoch: int) -> None:
        """Make the next pass that of an epoch; a position that was loaded for it stays."""
        epoch = natural("epoch", epoch)
        if loader.seed is None:
            for each in _holders(loader):
                each.set_epoch(epoch)
            return
        before = self.coming(loader)
        self._wanted = before if before[0] == epoch and self._wanted is not None else (epoch, 0)

    def resume(self, epoch: int, position: int) -> None:
        """Make the next pass go on where a state was taken."""
        self._wanted = epoch, position

    def stands_at(self, loader: Any) -> tuple[int, int]:
        """Epoch and position for a state."""
        newest = self.newest
        if self._wanted is not None or newest is None:
            return self.coming(loader)
        return (newest.epoch + 1, 0) if newest.is_complete else (newest.epoch, newest.position)

    def _look_at_others(self, loader: Any) -> None:
        """Take over the epoch that somebody gave to a sampler or to the dataset meanwhile."""
        for each in _holders(loader):
            told = self._told.get(id(each), 0)
            if each.epoch != told:
                self._told[id(each)] = each.epoch
                self._wanted = each.epoch, 0


def steps_of(loader: Any, order: Order, start: int = 0) -> Steps:
    """The steps of this rank, as ranks and options are now."""
    ranks, rank = ranks_of(loader)
    return Steps(
        order.length(),
        start,
        loader.batch_size or 1,
        ranks,
        rank,
        drop_last=loader.drop_last,
        even=loader.even,
    )


def _holders(loader: Any) -> list[Any]:
    """Samplers and the dataset, as far as they can be told an epoch and say which they have."""
    found = [*nested(loader.sampler), *nested(loader.batch_sampler), loader.dataset]
    return [
        each
        for each in {id(each): each for each in found}.values()
        if hasattr(each, "set_epoch") and isinstance(getattr(each, "epoch", None), int)
    ]


def _positions(block: Block, length: int) -> range | list[int]:
    if not block.fillers:
        return range(block.first, block.first + block.samples)
    return positions(block, length)


def _inside(number: int, indices: Any) -> range:
    """Positions of the samples in a batch of a batch sampler: they follow from its number."""
    first = number << 32
    return range(first, first + len(indices))
