"""Carry the indices of a batch from the sampler to the dataset.

Runs in: consumer (``pack``) and worker (``unpack``).
Takes: what a sampler yields for a batch: anything, or a ``Compact``
(``fastload.samplers.batches``).
Gives: bytes for a message, and from them the same indices.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt


class Compact:
    """Stands for a list of integers; any code but fastload's own is given that list.

    Attributes:
        numbers: An array of int32 or int64, or a ``range`` of step 1.
    """

    __slots__ = ("numbers",)

    def __init__(self, numbers: npt.NDArray[Any] | range) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        return repr(self.tolist())

    def tolist(self) -> list[int]:
        """Return the list, new at each call."""
        numbers = self.numbers
        return list(numbers) if isinstance(numbers, range) else numbers.tolist()


class PositionedIndices:
    """Indices together with the positions of their samples in a seeded stream.

    Attributes:
        positions: The position of each sample of the batch.
        indices: A batch of indices, a ``Compact``, or the index of one sample.
    """

    __slots__ = ("indices", "positions")

    def __init__(self, positions: Sequence[int], indices: Any) -> None:
        self.positions = positions
        self.indices = indices

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        return repr(self.indices)


def plain(indices: Any) -> Any:
    """Return the indices as a dataset gets to see them."""
    return indices.tolist() if type(indices) is Compact else indices


def count(indices: Any) -> int:
    """Return how many samples are asked for; 0 where nobody knows before they are asked."""
    try:
        return len(indices)
    except TypeError:  # an iterator
        return 0


def part_of(positioned: PositionedIndices, part: int, parts: int) -> PositionedIndices:
    """One of several parts of a batch's indices, as equal as may be; each has one at least."""
    total = len(positioned.positions)
    begin, end = part * total // parts, (part + 1) * total // parts
    indices = positioned.indices
    if type(indices) is Compact:
        cut: Any = Compact(indices.numbers[begin:end])
    else:
        cut = indices[begin:end]
    return PositionedIndices(positioned.positions[begin:end], cut)


def joined(parts: Sequence[PositionedIndices]) -> PositionedIndices:
    """The indices of a batch, of which these are the parts in their order."""
    positions = [position for part in parts for position in part.positions]
    indices = [index for part in parts for index in plain(part.indices)]
    return PositionedIndices(positions, indices)


def pack(indices: Any) -> bytes:
    """Return bytes for these indices; the last byte says of what form they are.

    Raises:
        Exception: Whatever pickling an object of the user's raises.
    """
    if type(indices) is PositionedIndices:
        return _pack_positioned(indices)
    if type(indices) is not Compact:
        return pickle.dumps(indices, protocol=5)
    numbers = indices.numbers
    if isinstance(numbers, range):
        return _RANGE.pack(numbers.start, numbers.stop, b"r")
    return numbers.tobytes() + _TAGS[numbers.dtype]


def unpack(packed: bytes) -> Any:
    """Return the indices that were packed."""
    tag = packed[-1:]
    if tag in _DTYPES:
        return Compact(np.frombuffer(packed, _DTYPES[tag], len(packed) // _DTYPES[tag].itemsize))
    if tag == b"r":
        start, stop, _ = _RANGE.unpack(packed)
        return Compact(range(start, stop))
    if tag == b"p":
        start, stop, _ = _RANGE.unpack_from(packed, len(packed) - _RANGE.size)
        return PositionedIndices(range(start, stop), unpack(packed[: -_RANGE.size]))
    if tag == b"l":
        positions, inner = pickle.loads(packed[:-1])
        return PositionedIndices(positions, unpack(inner))
    return pickle.loads(packed)


def _pack_positioned(positioned: PositionedIndices) -> bytes:
    positions, inner = positioned.positions, pack(positioned.indices)
    if isinstance(positions, range):
        return inner + _RANGE.pack(positions.start, positions.stop, b"p")
    return pickle.dumps((list(positions), inner), protocol=5) + b"l"


_DTYPES: Final[dict[bytes, np.dtype[Any]]] = {b"i": np.dtype(np.int32), b"q": np.dtype(np.int64)}
_TAGS: Final = {dtype: tag for tag, dtype in _DTYPES.items()}
_RANGE: Final = struct.Struct("=qqc")
