"""A random permutation that is computed, not stored.

Runs in: consumer.
Takes: positions.
Gives: what the permutation has at these positions.

Large ones are a Feistel network over ``Z_a x Z_b`` with ``a * b`` barely above ``n``; what falls
beyond ``n`` walks on along its cycle (Black and Rogaway, "Ciphers with arbitrary finite domains",
CT-RSA 2002). The round function multiplies and shifts 64-bit numbers, as in SplitMix64 (Steele, Lea
and Flood, OOPSLA 2014). Small ones, where a network of few bits would show its structure, are the
order of hashed numbers. Only integer arithmetic is used, so every machine gets the same.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fastload.samplers.epochs import keys

ROUNDS = 8
"""Luby and Rackoff need 4 rounds of an ideal round function; ours is a hash, so there are 8."""

LARGEST_TABLE = 1 << 16
"""Up to this length a permutation is stored: half a megabyte, made in 5 ms."""

LARGEST = 1 << 62
"""Beyond this length, a half of a position would not fit 32 bits."""

CHUNK = 1 << 14
"""So many positions are computed at once, because their temporary arrays fit a core's cache."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = (np.uint64(bits) for bits in (27, 30, 31, 32))

Indices = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]


class Permutation:
    """A permutation of ``range(length)`` that follows from a seed and what it is for.

    Constant memory for any length; equal arguments give the same one everywhere.

    Args:
        length: An integer from 0 to 2**62.
        seed: Any integer of at least zero.
        purpose: Numbers that tell apart permutations of one seed, such as the epoch.

    Example:
        >>> sorted(Permutation(10, 1)(np.arange(10)).tolist()) == list(range(10))
        True
    """

    def __init__(self, length: int, seed: int, *purpose: int) -> None:
        if not 0 <= length <= LARGEST:
            raise ValueError(f"a permutation has 0 to 2**62 elements, but got {length}")
        self.length = length
        self._table: Indices | None = None
        drawn = keys(seed, *purpose, count=2 * ROUNDS)
        if length <= LARGEST_TABLE:
            self._table = np.argsort(_hashed(length, drawn[0]), kind="stable")
            return
        rows = math.isqrt(length - 1) + 1
        self._rows, self._columns = np.uint64(rows), np.uint64(-(-length // rows))
        self._keys = [(drawn[i] | np.uint64(1), drawn[i + 1]) for i in range(0, 2 * ROUNDS, 2)]

    def __call__(self, positions: Indices) -> Indices:
        """Return the elements at ``positions``, both int64 and one-dimensional.

        Each position must be from 0 to ``length - 1``; that is not checked.
        """
        if self._table is not None:
            return self._table[positions]
        found = self._network(positions.astype(np.uint64))
        length = np.uint64(self.length)
        (beyond,) = np.nonzero(found >= length)
        while beyond.size:
            walked = self._network(found[beyond])
            found[beyond] = walked
            beyond = beyond[walked >= length]
        return found.view(np.int64)

    def _network(self, values: _Words) -> _Words:
        left = values // self._columns
        right = values - left * self._columns
        scratch, hashed = np.empty_like(left), np.empty_like(left)
        for number, (factor, offset) in enumerate(self._keys):
            source, target, size = (
                (right, left, self._rows) if number % 2 == 0 else (left, right, self._columns)
            )
            _add_hash(source, target, size, factor, offset, hashed, scratch)
        left *= self._columns
        left += right
        return left


def _add_hash(
    source: _Words,
    target: _Words,
    size: np.uint64,
    factor: np.uint64,
    offset: np.uint64,
    hashed: _Words,
    scratch: _Words,
) -> None:
    """Compute ``target = (target + hash(source)) % size`` in place; all are below 2**32."""
    np.multiply(source, factor, out=hashed)
    hashed += offset
    np.right_shift(hashed, _S32, out=scratch)
    hashed ^= scratch
    hashed *= _MIX_1
    # The upper half of the hash as a fraction of 2**32, times size: no division.
    hashed >>= _S32
    hashed *= size
    hashed >>= _S32
    target += hashed
    # Below size, target - size wraps round to something huge; the minimum keeps target then.
    np.subtract(target, size, out=scratch)
    np.minimum(target, scratch, out=target)


def _hashed(length: int, key: np.uint64) -> _Words:
    """Return SplitMix64's first outputs from a state."""
    words = np.arange(1, length + 1, dtype=np.uint64)
    words *= _GOLDEN
    words += key
    words ^= words >> _S30
    words *= _MIX_1
    words ^= words >> _S27
    words *= _MIX_2
    words ^= words >> _S31
    return words
