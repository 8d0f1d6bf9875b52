"""Rows of an Arrow column as tensors, read where they lie.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the chunks of a column, and rows of them.
Gives: a tensor of the rows, values and lengths, or a list of Python objects.

A column may have thousands of chunks (one a record batch) that all lie in one mapped file. Then
the whole file is viewed as numbers of the column's type, a row is a place in it, and rows of any
chunks are read with one index operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from fastload._memory.layout import CARRIERS, Shape
from fastload._memory.write import HEAP, Place
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
    """Rows of several lengths."""

    values: Tensor
    """The rows one after another: ``(sum of lengths, ...)``."""

    lengths: Ints
    """``(rows,)``."""


class Column:
    """One column of a block."""

    def __init__(self, whole: Any, chunks: int) -> None:
        self.validity = Validity(whole, chunks)

    def attach(self, chunk: int, array: Any) -> None:
        """Learn where a chunk lies."""
        self.validity.attach(chunk, array)

    def valid(self, rows: BufferRows) -> Bools | None:
        """True where a row is not null; None: everywhere."""
        return self.validity.take(rows)

    def take(self, rows: BufferRows, place: Place) -> Any:
        """The rows; of null ones, anything."""
        raise NotImplementedError

    def valid_slice(self, first: int, count: int) -> Bools | None:
        """As ``valid``, of consecutive rows of the only chunk."""
        return self.validity.slice(first, count)

    def slice(self, first: int, count: int, place: Place) -> Any:
        """As ``take``, of consecutive rows of the only chunk: copied as they lie."""
        raise NotImplementedError

    @staticmethod
    def merge(parts: Parts, count: int, place: Place) -> Any:
        """Rows of several blocks as one."""
        raise NotImplementedError


class _FixedColumn(Column):
    """Numbers, or arrays of numbers of one shape: a tensor ``(rows, *shape)``."""

    def __init__(self, whole: Any, chunks: int, dtype: np.dtype[Any], shape: Shape) -> None:
        super().__init__(whole, chunks)
        self._bytes = Bytes(whole, chunks)
        self._dtype, self._shape = dtype, shape
        self._torch_dtype = TORCH_DTYPES[dtype]
        self._carrier = CARRIERS[dtype.itemsize]
        self._width = int(np.prod(shape))
        self._windows: Tensor | None = None
        self._in_a_row: npt.NDArray[Any] | None = None

    def attach(self, chunk: int, array: Any) -> None:
        super().attach(chunk, array)
        position, array = _innermost(array)
        self._bytes.attach(chunk, array.buffers()[-1], position, self._dtype.itemsize * 8)

    def take(self, rows: BufferRows, place: Place) -> Tensor:
        count = len(rows.within)
        out = place.tensor((count, *self._shape), self._torch_dtype)
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
        out = place.tensor((count, *self._shape), self._torch_dtype)
        if not self._width or not count:
            return out
        if self._in_a_row is None:
            items = self._bytes.view(self._dtype)[self._bytes.start() :]
            rows = len(items) // self._width
            self._in_a_row = items[: rows * self._width].reshape(rows, *self._shape)
        # Not torch's: that one shares half a megabyte among threads and waits for all of them.
        np.copyto(out.numpy(), self._in_a_row[first : first + count])
        return out

    @staticmethod
    def merge(parts: Parts, count: int, place: Place) -> Tensor:
        return merge_tensors(parts, count, place)


class _BoolColumn(Column):
    """Bits: a tensor ``(rows,)`` of bool."""

    def __init__(self, whole: Any, chunks: int) -> None:
        super().__init__(whole, chunks)
        self._bits = Bytes(whole, chunks)

    def attach(self, chunk: int, array: Any) -> None:
        super().attach(chunk, array)
        self._bits.attach(chunk, array.buffers()[1], array.offset, 1)

    def take(self, rows: BufferRows, place: Place) -> Tensor:
        out = place.tensor((len(rows.within),), torch.bool)
        out.numpy()[:] = take_bits(self._bits, rows)
        return out

    def slice(self, first: int, count: int, place: Place) -> Tensor:
        out = place.tensor((count,), torch.bool)
        if count:
            out.numpy()[:] = slice_bits(self._bits, first, count)
        return out

    @staticmethod
    def merge(parts: Parts, count: int, place: Place) -> Tensor:
        return merge_tensors(parts, count, place)


class _RaggedColumn(Column):
    """Lists of numbers."""

    def __init__(
        self, whole: Any, chunks: int, dtype: np.dtype[Any], shape: Shape, offsets: type
    ) -> None:
        super().__init__(whole, chunks)
        self._values = _FixedColumn(whole, chunks, dtype, shape)
        self._offsets = Bytes(whole, chunks)
        self._offset_type = offsets

    def attach(self, chunk: int, array: Any) -> None:
        super().attach(chunk, array)
        self._values.attach(chunk, array.values)
        bits = np.dtype(self._offset_type).itemsize * 8
        self._offsets.attach(chunk, array.buffers()[1], array.offset, bits)

    def take(self, rows: BufferRows, place: Place) -> RaggedValues:
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
        if not count or self.valid_slice(first, count) is not None:
            return self.take(BufferRows(np.arange(first, first + count), 0), place)
        start = self._offsets.start() + first
        offsets = self._offsets.view(self._offset_type)[start : start + count + 1]
        values = self._values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]), place)
        return RaggedValues(values, np.diff(offsets).astype(np.int64))

    @staticmethod
    def merge(parts: Parts, count: int, place: Place) -> RaggedValues:
        lengths = np.zeros(count, np.int64)
        for at, part in parts:
            lengths[at] = part.lengths
        starts = lengths.cumsum() - lengths
        moved = [(_ranges(starts[at], part.lengths), part.values) for at, part in parts]
        return RaggedValues(merge_tensors(moved, int(lengths.sum()), place), lengths)


class _ObjectColumn(Column):
    """Anything else: a list of Python objects, as pyarrow makes them."""

    def __init__(self, whole: Any, chunks: int) -> None:
        super().__init__(whole, chunks)
        self._arrays: dict[int, Any] = {}
        self._may_be_null: bool | None = None

    def attach(self, chunk: int, array: Any) -> None:
        self._arrays[chunk] = array

    def valid(self, rows: BufferRows) -> Bools | None:
        found = [each is not None for each in self.take(rows, HEAP)]
        return None if all(found) else np.array(found)

    def take(self, rows: BufferRows, place: Place) -> list[Any]:
        del place
        if isinstance(rows.chunks, int):
            taken: list[Any] = self._arrays[rows.chunks].take(pa.array(rows.within)).to_pylist()
            return taken
        chunks, which = np.unique(rows.chunks, return_inverse=True)
        arrays = [self._arrays[chunk] for chunk in chunks.tolist()]
        starts = np.cumsum([0, *map(len, arrays[:-1])])
        rows_of_joined = pa.array(starts[which] + rows.within)
        joined: list[Any] = pa.chunked_array(arrays).take(rows_of_joined).to_pylist()
        return joined

    def slice(self, first: int, count: int, place: Place) -> list[Any]:
        del place
        sliced: list[Any] = self._arrays[0].slice(first, count).to_pylist()
        return sliced

    def valid_slice(self, first: int, count: int) -> Bools | None:
        if self._may_be_null is None:
            self._may_be_null = _may_be_null(self._arrays[0])
        if not self._may_be_null:
            return None
        found = [each is not None for each in self.slice(first, count, HEAP)]
        return None if all(found) else np.array(found)

    @staticmethod
    def merge(parts: Parts, count: int, place: Place) -> list[Any]:
        del place
        merged: list[Any] = [None] * count
        for at, values in parts:
            for position, value in zip(at.tolist(), values, strict=True):
                merged[position] = value
        return merged


def make_column(kind: Any, whole: Any, chunks: int) -> Column:
    """How a column of an Arrow type is read.

    Args:
        kind: Its ``pyarrow.DataType``.
        whole: The buffer in which all its chunks lie; None: there is one chunk, anywhere.
        chunks: How many chunks there are; each must be attached before it is read.
    """
    if pa.types.is_boolean(kind):
        return _BoolColumn(whole, chunks)
    if (fixed := _fixed(kind)) is not None:
        return _FixedColumn(whole, chunks, *fixed)
    if (fixed := _ragged(kind)) is not None:
        offsets = np.int64 if pa.types.is_large_list(kind) else np.int32
        return _RaggedColumn(whole, chunks, *fixed, offsets)
    return _ObjectColumn(whole, chunks)


def is_ragged(kind: Any) -> bool:
    """Whether rows of a type are lists of numbers, of any length."""
    return _ragged(kind) is not None


def is_text(kind: Any) -> bool:
    """Whether rows of a type are strings or bytes."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests: Sequence[Any] = (
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
        pa.types.is_fixed_size_binary,
    )
    return any(test(kind) for test in tests)


def null_within(array: Any) -> int | None:
    """The first row of a list column that has a null inside, or None."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    is_fixed = pa.types.is_fixed_size_list(array.type)
    if not is_fixed and not pa.types.is_list(array.type) and not pa.types.is_large_list(array.type):
        return None
    inner = array.flatten()
    if not inner.null_count and null_within(inner) is None:
        return None
    for row, values in enumerate(array):
        flat = values.values
        if flat is not None and (flat.null_count or null_within(flat) is not None):
            return row
    return None


def _may_be_null(array: Any) -> bool:
    """Whether a row may be None; of a dictionary's rows, the dictionary says that too."""
    return not is_text(array.type) or pa.types.is_dictionary(array.type) or array.null_count > 0


def _fixed(kind: Any) -> tuple[np.dtype[Any], Shape] | None:
    """Dtype and shape of rows that are all of one size in memory, or None."""
    shape: Shape = ()
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation not in (None, list(range(len(kind.shape)))):
            return None
        inner = _fixed(kind.value_type)
        return None if inner is None else (inner[0], (*kind.shape, *inner[1]))
    if isinstance(kind, pa.BaseExtensionType):
        return _fixed(kind.storage_type)
    while pa.types.is_fixed_size_list(kind):
        shape, kind = (*shape, kind.list_size), kind.value_type
    if pa.types.is_temporal(kind):
        if pa.types.is_interval(kind):
            return None
        return np.dtype(f"int{kind.bit_width}"), shape
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return (np.dtype(kind.to_pandas_dtype()), shape) if is_number else None


def _ragged(kind: Any) -> tuple[np.dtype[Any], Shape] | None:
    """Dtype and shape of the elements of lists of any length, or None."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return _fixed(kind.value_type) if is_list else None


def _innermost(array: Any) -> tuple[int, Any]:
    """The numbers inside nested fixed-size lists, and which is the first row's first."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    position = array.offset
    while pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        array = array.values
        position = position * size + array.offset
    return position, array


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """The numbers from each start on, as many as each length says, one after another."""
    ends = lengths.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - ends + lengths, lengths) + np.arange(total)
