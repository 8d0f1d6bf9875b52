"""Which positions of a stream are whose: steps, ranks, and what becomes of an incomplete step.

Runs in: consumer.
Takes: the length of the stream, where the pass begins, batch size and ranks.
Gives: for one rank the positions of each of its batches.

A step is one batch on every rank. With batch size B and R ranks, step t of rank r has the positions
``start + (t * R + r) * B`` and the B - 1 after it. So the batches of a step, joined in the order of
ranks, are the next ``R * B`` samples of the stream, whatever R and B are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

Even = Literal["pad", "mask", "drop", "none"]
EVEN: Final[tuple[str, ...]] = get_args(Even)


class StepBatch(NamedTuple):
    """The samples of one batch.

    Attributes:
        first: Position of its first sample; the others follow.
        samples: How many samples of the stream it has.
        fillers: How many samples of the stream's beginning stand behind them.
        first_filler: Position of the first filler; they go on from 0 behind the stream's end.
    """

    first: int
    samples: int
    fillers: int = 0
    first_filler: int = 0


@dataclass(frozen=True)
class Steps:
    """The steps of one pass over a stream of known length.

    Attributes:
        length: Samples in the stream.
        start: Position at which the pass begins.
        batch_size: Samples of a batch on one rank.
        ranks: Number of ranks.
        rank: This rank.
        drop_last: Leave out an incomplete step.
        even: What becomes of an incomplete step where there are several ranks: "pad" and "mask"
            fill it with the stream's first samples, "drop" leaves it out, "none" gives each rank
            what is left of its block.
    """

    length: int
    start: int
    batch_size: int
    ranks: int = 1
    rank: int = 0
    drop_last: bool = False
    even: Even = "pad"

    @property
    def step_size(self) -> int:
        """Samples of a step, over all ranks."""
        return self.ranks * self.batch_size

    @property
    def whole(self) -> int:
        """Number of steps that are complete."""
        return max(0, self.length - self.start) // self.step_size

    @property
    def left(self) -> int:
        """Samples behind the last complete step."""
        return max(0, self.length - self.start) % self.step_size

    def __len__(self) -> int:
        """Number of batches of this rank."""
        return self.whole + (self.last() is not None)

    def __iter__(self) -> Iterator[StepBatch]:
        first = self.start + self.rank * self.batch_size
        for step in range(self.whole):
            yield StepBatch(first + step * self.step_size, self.batch_size)
        last = self.last()
        if last is not None:
            yield last

    @property
    def total(self) -> int:
        """Number of steps that any rank has."""
        is_left_out = self.drop_last or (self.ranks > 1 and self.even == "drop")
        return self.whole + bool(self.left and not is_left_out)

    def last(self) -> StepBatch | None:
        """This rank's part of an incomplete step; None if it has none."""
        if not self.left or self.drop_last:
            return None
        begin = self.length - self.left
        if self.ranks == 1:
            return StepBatch(begin, self.left)
        if self.even == "drop":
            return None
        offset = self.rank * self.batch_size
        samples = min(max(0, self.left - offset), self.batch_size)
        if self.even == "none":
            return StepBatch(begin + offset, samples) if samples else None
        fillers = self.batch_size - samples
        before = max(0, offset - self.left)  # fillers of ranks before this one
        first_filler = before % self.length if fillers else 0
        return StepBatch(begin + offset if samples else self.length, samples, fillers, first_filler)

    def position_after(self, steps: int) -> int:
        """The position at which a pass goes on behind so many steps; at most the length."""
        return min(self.length, self.start + steps * self.step_size)


def positions(block: StepBatch, length: int) -> list[int]:
    """The positions of a batch's samples, fillers included."""
    fillers = ((block.first_filler + at) % length for at in range(block.fillers))
    return [*range(block.first, block.first + block.samples), *fillers]
