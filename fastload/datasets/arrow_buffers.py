"""Read the buffers of an Arrow column, over all of its chunks.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the chunks of a column.
Gives: where in memory its rows lie, and which of them are not null.

Arrow keeps a column as chunks, and a chunk as buffers: its values, its offsets, one bit a row that
says whether the row is valid (not null).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class BufferRows(NamedTuple):
    """Rows of a block, as numbers of chunks and of rows within them."""

    within: Ints
    """Holds the number of each row within its chunk."""

    chunks: Ints | int
    """Holds the number of the chunk of each row, or one number for all."""


class Bytes:
    """The memory of one kind of buffer of a column, over all chunks.

    Args:
        whole: A buffer in which the buffers of all chunks lie; None: there is one chunk, anywhere.
        chunks: The number of chunks; each must be attached before it is read.
    """

    def __init__(self, whole: Any, chunks: int) -> None:
        self._whole = whole
        self._address = None if whole is None else whole.address
        self._memory = None if whole is None else np.frombuffer(whole, np.uint8)
        self._first = np.zeros(chunks, np.int64)

    def attach(self, chunk: int, buffer: Any, position: int, bits: int) -> None:
        """Learn that element ``position`` of ``buffer`` is the first of a chunk.

        Raises:
            ValueError: The buffer does not lie in the whole, or not at a multiple of an element.
        """
        if buffer is None or not buffer.size:
            return  # no elements
        if self._memory is None or self._address is None:
            self._address, self._memory = buffer.address, np.frombuffer(buffer, np.uint8)
        start = (buffer.address - self._address) * 8
        if start < 0 or start % bits or start // 8 + buffer.size > self._memory.nbytes:
            raise ValueError("a buffer of this column does not lie in the mapped file")
        self._first[chunk] = start // bits + position

    def view(self, dtype: Any) -> npt.NDArray[Any]:
        """Return all of the memory as numbers."""
        if self._memory is None:
            return np.empty(0, dtype)
        size = np.dtype(dtype).itemsize
        return self._memory[: len(self._memory) // size * size].view(dtype)

    def start(self) -> int:
        """Return the element that belongs to the first row of the only chunk."""
        return int(self._first[0])

    def at(self, rows: BufferRows) -> Ints:
        """Return for each row the element that belongs to its chunk's first row."""
        return self._first[rows.chunks]


class Validity:
    """Knows which rows are not null."""

    def __init__(self, whole: Any, chunks: int) -> None:
        self._bits = Bytes(whole, chunks)
        self._has_bits = np.zeros(chunks, np.bool_)
        self._is_needed = False

    def attach(self, chunk: int, array: Any) -> None:
        """Learn where a chunk lies."""
        if array.null_count and array.buffers()[0] is not None:
            self._bits.attach(chunk, array.buffers()[0], array.offset, 1)
            self._has_bits[chunk] = self._is_needed = True

    def take(self, rows: BufferRows) -> Bools | None:
        """Return a mask of rows, True where a row is not null; None if none is null."""
        if not self._is_needed:
            return None
        has_bits = self._has_bits[rows.chunks]
        if not np.any(has_bits):
            return None
        valid = np.ones(len(rows.within), np.bool_)
        which = np.broadcast_to(has_bits, valid.shape)
        valid[which] = take_bits(self._bits, rows)[which]
        return None if valid.all() else valid

    def slice(self, first: int, count: int) -> Bools | None:
        """Return the same as ``take`` for consecutive rows of the only chunk."""
        if not self._is_needed:
            return None
        valid = slice_bits(self._bits, first, count)
        return None if valid.all() else valid


def take_bits(bits: Bytes, rows: BufferRows) -> Bools:
    """Return the bits of rows as booleans."""
    at = bits.at(rows) + rows.within
    taken = (bits.view(np.uint8)[at >> 3] >> (at & 7).astype(np.uint8)) & 1
    return taken.astype(np.bool_)  # type: ignore[no-any-return]


def slice_bits(bits: Bytes, first: int, count: int) -> Bools:
    """Return the bits of consecutive rows of the only chunk as booleans."""
    start = bits.start() + first
    packed = bits.view(np.uint8)[start >> 3 : (start + count + 7) >> 3]
    found = np.unpackbits(packed, bitorder="little")[start & 7 :][:count]
    return found.view(np.bool_)
