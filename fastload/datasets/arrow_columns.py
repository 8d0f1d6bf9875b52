"""Read rows of an Arrow column as tensors, from where they lie.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the chunks of a column, and rows of them.
Gives: a tensor of the rows, or the values of all rows and the length of each.

A column may have thousands of chunks (one a record batch) that all lie in one mapped file. Then the
whole file is viewed as numbers of the column's type, a row is a place in it, and rows of any chunks
are read with one index operation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from fastload._memory.layout import CARRIERS, Shape
from fastload._memory.write import Place
from fastload.collate.inplace import TORCH_DTYPES
from fastload.datasets.arrow_buffers import (
    Bools,
    BufferRows,
    Bytes,
    Ints,
    Validity,
    slice_bits,
    take_bits,
)
from fastload.datasets.kinds import viewed
from fastload.datasets.nodes import Parts, merge_tensors


class RaggedValues(NamedTuple):
    """Rows of several lengths, one after another."""

    values: Tensor
    """Holds the rows one after another: ``(sum of lengths, ...)``."""

    lengths: Ints
    """Holds the length of each row: ``(rows,)``."""


class Column:
    """One column of a block; ``make_column`` chooses the class by the Arrow type."""

    def __init__(self, whole: Any, chunks: int) -> None:
        self.validity = Validity(whole, chunks)

    def attach(self, chunk: int, array: Any) -> None:
        """Learn where a chunk lies."""
        self.validity.attach(chunk, array)

    def valid(self, rows: BufferRows) -> Bools | None:
        """Return a mask of rows, True where a row is not null; None if none is null."""
        return self.validity.take(rows)

    def take(self, rows: BufferRows, place: Place) -> Any:
        """Return the rows; for null ones, anything."""
        raise NotImplementedError

    def valid_slice(self, first: int, count: int) -> Bools | None:
        """Return the same as ``valid`` for consecutive rows of the only chunk."""
        return self.validity.slice(first, count)

    def slice(self, first: int, count: int, place: Place) -> Any:
        """Return the same as ``take`` for consecutive rows of the only chunk; they are copied."""
        raise NotImplementedError

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        """Join rows of several blocks."""
        raise NotImplementedError


class FixedColumn(Column):
    """A column of numbers, or arrays of numbers of one shape: a tensor ``(rows, *shape)``."""

    def __init__(self, whole: Any, chunks: int, dtype: np.dtype[Any], shape: Shape) -> None:
        super().__init__(whole, chunks)
        self._bytes = Bytes(whole, chunks)
        self._dtype, self._shape = dtype, shape
        self.torch_dtype = TORCH_DTYPES[dtype]
        self._carrier = CARRIERS[dtype.itemsize]
        self._width = int(np.prod(shape))
        self._windows: Tensor | None = None
        self._in_a_row: npt.NDArray[Any] | None = None

    def attach(self, chunk: int, array: Any) -> None:
        """Do what ``Column.attach`` says."""
        super().attach(chunk, array)
        position, array = _innermost(array)
        self._bytes.attach(chunk, array.buffers()[-1], position, self._dtype.itemsize * 8)

    def take(self, rows: BufferRows, place: Place) -> Tensor:
        """Do what ``Column.take`` says."""
        count = len(rows.within)
        out = place.tensor((count, *self._shape), self.torch_dtype)
        if not self._width or not count:
            return out
        if self._windows is None:
            items = viewed(self._bytes.view(self._dtype)).view(self._carrier)
            places = len(items) - self._width + 1
            self._windows = items.as_strided((places, self._width), (1, 1))
        at = self._bytes.at(rows) + rows.within * self._width
        target = out.view(self._carrier).view(count, self._width)
        torch.index_select(self._windows, 0, torch.from_numpy(at), out=target)
        return out

    def slice(self, first: int, count: int, place: Place) -> Tensor:
        """Do what ``Column.slice`` says."""
        out = place.tensor((count, *self._shape), self.torch_dtype)
        if not self._width or not count:
            return out
        if self._in_a_row is None:
            items = self._bytes.view(self._dtype)[self._bytes.start() :]
            rows = len(items) // self._width
            self._in_a_row = items[: rows * self._width].reshape(rows, *self._shape)
        # Not torch's: that one shares half a megabyte among threads and waits for all of them.
        np.copyto(out.numpy(), self._in_a_row[first : first + count])
        return out

    def merge(self, parts: Parts, count: int, place: Place) -> Tensor:
        """Do what ``Column.merge`` says."""
        return merge_tensors(parts, count, place)


class BoolColumn(Column):
    """A column of bits: a tensor ``(rows,)`` of bool."""

    def __init__(self, whole: Any, chunks: int) -> None:
        super().__init__(whole, chunks)
        self._bits = Bytes(whole, chunks)

    def attach(self, chunk: int, array: Any) -> None:
        """Do what ``Column.attach`` says."""
        super().attach(chunk, array)
        self._bits.attach(chunk, array.buffers()[1], array.offset, 1)

    def take(self, rows: BufferRows, place: Place) -> Tensor:
        """Do what ``Column.take`` says."""
        out = place.tensor((len(rows.within),), torch.bool)
        out.numpy()[:] = take_bits(self._bits, rows)
        return out

    def slice(self, first: int, count: int, place: Place) -> Tensor:
        """Do what ``Column.slice`` says."""
        out = place.tensor((count,), torch.bool)
        if count:
            out.numpy()[:] = slice_bits(self._bits, first, count)
        return out

    def merge(self, parts: Parts, count: int, place: Place) -> Tensor:
        """Do what ``Column.merge`` says."""
        return merge_tensors(parts, count, place)


class RaggedColumn(Column):
    """A column of lists of numbers, of any lengths."""

    def __init__(
        self, whole: Any, chunks: int, dtype: np.dtype[Any], shape: Shape, offsets: type
    ) -> None:
        super().__init__(whole, chunks)
        self._values = FixedColumn(whole, chunks, dtype, shape)
        self._offsets = Bytes(whole, chunks)
        self._offset_type = offsets

    def attach(self, chunk: int, array: Any) -> None:
        """Do what ``Column.attach`` says."""
        super().attach(chunk, array)
        self._values.attach(chunk, array.values)
        bits = np.dtype(self._offset_type).itemsize * 8
        self._offsets.attach(chunk, array.buffers()[1], array.offset, bits)

    def take(self, rows: BufferRows, place: Place) -> RaggedValues:
        """Do what ``Column.take`` says."""
        at = self._offsets.at(rows) + rows.within
        offsets = self._offsets.view(self._offset_type)
        starts = offsets[at].astype(np.int64)
        lengths = offsets[at + 1] - starts
        valid = self.valid(rows)
        if valid is not None:
            lengths[~valid] = 0
        chunks = rows.chunks if isinstance(rows.chunks, int) else rows.chunks.repeat(lengths)
        within = BufferRows(_ranges(starts, lengths), chunks)
        return RaggedValues(self._values.take(within, place), lengths)

    def slice(self, first: int, count: int, place: Place) -> RaggedValues:
        """Do what ``Column.slice`` says."""
        if not count or self.valid_slice(first, count) is not None:
            return self.take(BufferRows(np.arange(first, first + count), 0), place)
        start = self._offsets.start() + first
        offsets = self._offsets.view(self._offset_type)[start : start + count + 1]
        values = self._values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]), place)
        return RaggedValues(values, np.diff(offsets).astype(np.int64))

    def merge(self, parts: Parts, count: int, place: Place) -> RaggedValues:
        """Do what ``Column.merge`` says."""
        return merge_ragged(parts, count, place)


def merge_ragged(parts: Parts, count: int, place: Place) -> RaggedValues:
    """Join rows of several lengths from several blocks."""
    lengths = np.zeros(count, np.int64)
    for at, part in parts:
        lengths[at] = part.lengths
    starts = lengths.cumsum() - lengths
    moved = [(_ranges(starts[at], part.lengths), part.values) for at, part in parts]
    return RaggedValues(merge_tensors(moved, int(lengths.sum()), place), lengths)


def _innermost(array: Any) -> tuple[int, Any]:
    """Return the first row's number among the numbers inside nested fixed-size lists, and these."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    position = array.offset
    while pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        array = array.values
        position = position * size + array.offset
    return position, array


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """Return the numbers from each start on, as many as each length says, one after another."""
    ends = lengths.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - ends + lengths, lengths) + np.arange(total)
