"""Shuffle any number of indices without storing them.

Runs in: consumer.
Takes: a length, a seed and an epoch.
Gives: every index once, computed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from itertools import chain

import numpy as np

from fastload.samplers.epochs import EpochSampler, natural
from fastload.samplers.permutation import CHUNK, LARGEST, Permutation


class ShuffleSampler(EpochSampler[int]):
    """Yields every index once, in random order, in constant memory.

    The order is a keyed permutation of ``seed`` and ``epoch``. It is not torch's order (that is
    ``RandomSampler``), but there is nothing to set up or to store: the first index of 10**9 comes
    after milliseconds, and so does the first after a resume.

    Args:
        length: The number of indices, or a dataset that has a length; up to 2**62.
        seed: Chooses the order together with the epoch; the same on every rank.

    Raises:
        TypeError, ValueError: ``length`` or ``seed`` is not a number of at least zero.

    Example:
        >>> sampler = ShuffleSampler(5, seed=1)
        >>> sorted(sampler)
        [0, 1, 2, 3, 4]
    """

    def __init__(self, length: int | Sized, seed: int = 0) -> None:
        super().__init__(seed)
        self.length = natural("length", len(length) if isinstance(length, Sized) else length)
        if self.length > LARGEST:
            raise ValueError(f"length must be at most 2**62, but got {self.length}")

    def __len__(self) -> int:
        return self.length

    def strided(self, start: int, step: int) -> Iterator[int]:
        """Yield every ``step``-th index of a pass from index ``start`` on, and compute no other."""
        return chain.from_iterable(self._computed(self.epoch, start, step))

    def _chunks(self, epoch: int, position: int) -> Iterator[Sequence[int]]:
        return self._computed(epoch, position, 1)

    def _computed(self, epoch: int, position: int, step: int) -> Iterator[Sequence[int]]:
        permutation = Permutation(self.length, self.seed, epoch)
        for start in range(position, self.length, CHUNK * step):
            stop = min(start + CHUNK * step, self.length)
            yield permutation(np.arange(start, stop, step)).tolist()
