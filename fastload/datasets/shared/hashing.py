"""Hash dictionary keys to numbers that are the same in every process.

Runs in: any process.

Python's own hash of a string differs from process to process. Keys that are equal have equal hashes
here too, also ``1``, ``1.0`` and ``True``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt

BITS = 64
_MASK = (1 << BITS) - 1
_SPREAD = 0x9E3779B97F4A7C15
"""Knuth's multiplicative hashing multiplies by this: 2^64 divided by the golden ratio."""


def stable_hash(key: Any) -> int:
    """Return a hash from 0 to 2^64 - 1.

    Raises:
        TypeError: The key is of a type for which there is none.
    """
    if isinstance(key, str):
        number = zlib.crc32(key.encode("utf-8", "surrogatepass"))
    elif isinstance(key, bytes):
        number = zlib.crc32(key, 1)
    elif isinstance(key, Number) or key is None:
        number = 0 if key is None else hash(key)  # numbers' hashes are the same everywhere
    elif isinstance(key, tuple):
        number = len(key)
        for part in key:
            number = number * 31 + stable_hash(part)
    else:
        raise TypeError(
            f"keys of a SharedDict are str, bytes, numbers, None, or tuples of these, "
            f"but got {key!r} of type {type(key).__name__}"
        )
    number = number * _SPREAD & _MASK
    return number ^ number >> 32


class Table:
    """Finds the position of a key: keys with equal low bits of their hashes lie side by side.

    Attributes:
        chunks: The table's content: the first entry of each bucket, and each entry's position.
    """

    def __init__(self, chunks: Sequence[Any]) -> None:
        self.chunks = chunks
        self._starts = memoryview(chunks[0]).cast("B").cast("q")
        self._positions = memoryview(chunks[1]).cast("B").cast("q")
        self._mask = len(self._starts) - 2

    @classmethod
    def of(cls, keys: Sequence[Any]) -> Table:
        """Make the table of these keys, which all differ."""
        buckets = 1 << max(len(keys) - 1, 0).bit_length()
        hashes = np.fromiter(map(stable_hash, keys), np.uint64, len(keys))
        bucket = (hashes & np.uint64(buckets - 1)).astype(np.int64)
        starts: npt.NDArray[np.int64] = np.zeros(buckets + 1, np.int64)
        np.cumsum(np.bincount(bucket, minlength=buckets), out=starts[1:])
        return cls([starts, np.argsort(bucket, kind="stable").astype(np.int64)])

    def find(self, key: Any, read: Callable[[int], Any]) -> int:
        """Return the position at which ``read`` gives this key, or -1."""
        bucket = stable_hash(key) & self._mask
        starts = self._starts
        for entry in range(starts[bucket], starts[bucket + 1]):
            position = self._positions[entry]
            if read(position) == key:
                return position
        return -1
