"""Shuffle data that likes locality: blocks in random order, and indices within a few blocks.

Runs in: consumer.
Takes: the lengths of the blocks, a seed and an epoch.
Gives: every index once, so that few blocks are in use at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.samplers.epochs import EpochSampler, natural
from fastload.samplers.permutation import CHUNK, Permutation

_OF_BLOCKS, _OF_WINDOW = 0, 1


class BlockShuffleSampler(EpochSampler[int]):
    """Yields every index once; those that are drawn near one another lie in few blocks.

    A block is what is cheap to read together: a row group, a file, a chunk. The blocks are
    shuffled, ``window`` of them at a time are opened, and the indices of these are shuffled among
    one another. So a reader that keeps ``window`` blocks reads each block once an epoch.

    Under ``shard`` use ``split="contiguous"``: each rank then reads blocks of its own.

    Args:
        blocks: The lengths of the blocks in the dataset's order; or a dataset that has
            ``block_lengths``; or, with ``block_size``, a number of indices or a dataset that has
            a length.
        window: Blocks that are open at once; 1 shuffles within each block alone.
        seed: Chooses the order together with the epoch; the same on every rank.
        block_size: Cut the indices into blocks of this size; the last may be shorter.

    Raises:
        TypeError: ``blocks`` is none of these.
        ValueError: A length is negative, or ``window`` or ``block_size`` below 1.

    Example:
        >>> sampler = BlockShuffleSampler([3, 2, 4], window=2, seed=1)
        >>> sorted(sampler)
        [0, 1, 2, 3, 4, 5, 6, 7, 8]
        >>> len(BlockShuffleSampler(1000, block_size=64, window=4))
        1000
    """

    def __init__(
        self, blocks: Any, *, window: int = 4, seed: int = 0, block_size: int | None = None
    ) -> None:
        super().__init__(seed)
        self.window = natural("window", window, least=1)
        self.block_lengths = _lengths_of(blocks, block_size)
        ends = np.cumsum(self.block_lengths)
        self._starts = ends - self.block_lengths
        self._length = int(ends[-1]) if ends.size else 0

    def __len__(self) -> int:
        return self._length

    def _chunks(self, epoch: int, position: int) -> Iterator[Sequence[int]]:
        count = len(self.block_lengths)
        order = Permutation(count, self.seed, epoch, _OF_BLOCKS)(np.arange(count))
        ends = np.cumsum(self.block_lengths[order])
        # The first block that holds something at or after the position.
        first = int(np.searchsorted(ends, position, side="right"))
        for number in range(first // self.window, -(-count // self.window)):
            opened = order[number * self.window : (number + 1) * self.window]
            before = int(ends[number * self.window - 1]) if number else 0
            shuffled = _Window(self._starts[opened], self.block_lengths[opened])
            permutation = Permutation(shuffled.length, self.seed, epoch, _OF_WINDOW, number)
            for start in range(max(position - before, 0), shuffled.length, CHUNK):
                places = np.arange(start, min(start + CHUNK, shuffled.length))
                yield shuffled.indices(permutation(places)).tolist()


class _Window:
    """A few blocks, of which the indices are counted through."""

    def __init__(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
        self._ends = np.cumsum(lengths)
        self._shifts = starts - (self._ends - lengths)
        self.length = int(self._ends[-1])

    def indices(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = (
            places + self._shifts[np.searchsorted(self._ends, places, side="right")]
        )
        return found


def _lengths_of(blocks: Any, block_size: int | None) -> npt.NDArray[np.int64]:
    if block_size is not None:
        size = natural("block_size", block_size, least=1)
        length = natural("blocks", len(blocks) if isinstance(blocks, Sized) else blocks)
        whole, rest = divmod(length, size)
        return np.array([size] * whole + [rest] * (rest > 0), dtype=np.int64)
    blocks = getattr(blocks, "block_lengths", blocks)
    given = np.asarray(blocks)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise TypeError(
            f"blocks must be a sequence of block lengths or a dataset with block_lengths, but got "
            f"{blocks!r}; for blocks of one size give block_size too"
        )
    lengths = given.astype(np.int64)
    (negative,) = np.nonzero(lengths < 0)
    if negative.size:
        raise ValueError(f"block {negative[0]} has the negative length {lengths[negative[0]]}")
    return lengths
