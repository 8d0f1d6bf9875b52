"""Seeds for random numbers, as a function of seed, epoch, purpose and position.

Runs in: consumer and worker.
Takes: the loader's seed, an epoch, and positions in its stream.
Gives: one 32-bit seed for each generator that is to be set.

Within an epoch the seed of a generator is a bijection of the position: no two samples share their
draws. The three global generators get different seeds, because NumPy's and torch's are both
Mersenne twisters that begin alike from equal seeds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final, Protocol

from fastload.samplers.epochs import keys

SAMPLER, ITERATOR, SAMPLE, COLLATE = range(4)
"""Purposes: a pass of the sampler, ``iter(dataset)``, one sample, and one call of collate."""

_DRAWS: Final = 0xD3A5
"""Keeps the keys apart from those of samplers, which are made from the same seed."""

_WORD: Final = 0xFFFFFFFF


class Seedable(Protocol):
    """A generator, global or owned by an object of the user's."""

    @property
    def number(self) -> int:
        """The generator's number; see ``EpochDraws.seed_of``."""

    def seed(self, seed: int) -> None:
        """Set the state that follows from a 32-bit seed."""


class EpochDraws:
    """The seeds of one epoch.

    Args:
        seed: The loader's seed: an integer of at least zero.
        epoch: Number of the epoch, from 0.
    """

    def __init__(self, seed: int, epoch: int) -> None:
        self._seed = seed
        self.epoch = epoch
        self._keys: dict[tuple[int, int, int], tuple[int, int]] = {}

    def seed_of(self, purpose: int, generator: int, position: int) -> int:
        """The seed of a generator: an integer from 0 to 2**32 - 1.

        Args:
            purpose: ``SAMPLER``, ``ITERATOR``, ``SAMPLE`` or ``COLLATE``.
            generator: Number of the generator; see ``fastload._seeded.generators``.
            position: The sample's place in the epoch's stream, counted over all ranks.
        """
        high, low = position >> 32, position & _WORD
        found = self._keys.get((purpose, generator, high))
        if found is None:
            found = self._keys[purpose, generator, high] = self._make_keys(purpose, generator, high)
        before, after = found
        return _mix(low ^ before) ^ after

    def seed(self, generators: Iterable[Seedable], purpose: int, position: int) -> None:
        """Set generators to the states that they have at a position, for one purpose."""
        for each in generators:
            each.seed(self.seed_of(purpose, each.number, position))

    def _make_keys(self, purpose: int, generator: int, high: int) -> tuple[int, int]:
        (word,) = keys(self._seed, _DRAWS, self.epoch, purpose, generator, high).tolist()
        return word & _WORD, word >> 32


def number_of(path: str) -> int:
    """A number for a generator that is known by its path, beyond those of the global ones."""
    return (1 << 32) | zlib.crc32(path.encode())


def _mix(word: int) -> int:
    """A bijection of 32-bit words in which each bit depends on all others.

    Source: the finalizer of MurmurHash3, https://github.com/aappleby/smhasher
    """
    word = (word ^ (word >> 16)) * 0x85EBCA6B & _WORD
    word = (word ^ (word >> 13)) * 0xC2B2AE35 & _WORD
    return word ^ (word >> 16)
