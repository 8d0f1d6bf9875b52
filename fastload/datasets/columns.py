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

from fastload.collate.inplace import TORCH_DTYPES
from fastload.datasets.gather import CARRIERS, Parts, merge_tensors, viewed
from fastload.memory.layout import Shape
from fastload.memory.write import HEAP, Place

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Rows(NamedTuple):
    """Rows of a block."""

    within: Ints
    """Number within its chunk."""

    chunks: Ints | int
    """Number of its chunk."""


class Ragged(NamedTuple):
    """Rows of several lengths."""

    values: Tensor
    """The rows one after another: ``(sum of lengths, ...)``."""

    lengths: Ints
    """``(rows,)``."""


class Bytes:
    """The memory of one kind of buffer of a column, over all chunks."""

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
        """All of the memory as numbers."""
        if self._memory is None:
            return np.empty(0, dtype)
        size = np.dtype(dtype).itemsize
        return self._memory[: len(self._memory) // size * size].view(dtype)

    def at(self, rows: Rows) -> Ints:
        """Of each row, the element that belongs to its chunk's first row."""
        return self._first[rows.chunks]


class Validity:
    """Which rows are not null."""

    def __init__(self, whole: Any, chunks: int) -> None:
        self._bits = Bytes(whole, chunks)
        self._has_bits = np.zeros(chunks, np.bool_)
        self._is_needed = False

    def attach(self, chunk: int, array: Any) -> None:
        """Learn where a chunk lies."""
        if array.null_count and array.buffers()[0] is not None:
            self._bits.attach(chunk, array.buffers()[0], array.offset, 1)
            self._has_bits[chunk] = self._is_needed = True

    def take(self, rows: Rows) -> Bools | None:
        """True where a row is not null; None: everywhere."""
        if not self._is_needed:
            return None
        has_bits = self._has_bits[rows.chunks]
        if not np.any(has_bits):
            return None
        valid = np.ones(len(rows.within), np.bool_)
        which = np.broadcast_to(has_bits, valid.shape)
        valid[which] = take_bits(self._bits, rows)[which]
        return None if valid.all() else valid


class Column:
    """One column of a block."""

    def __init__(self, whole: Any, chunks: int) -> None:
        self.validity = Validity(whole, chunks)

    def attach(self, chunk: int, array: Any) -> None:
        """Learn where a chunk lies."""
        self.validity.attach(chunk, array)

    def valid(self, rows: Rows) -> Bools | None:
        """True where a row is not null; None: everywhere."""
        return self.validity.take(rows)

    def take(self, rows: Rows, place: Place) -> Any:
        """The rows; of null ones, anything."""
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

    def attach(self, chunk: int, array: Any) -> None:
        super().attach(chunk, array)
        position, array = _innermost(array)
        self._bytes.attach(chunk, array.buffers()[-1], position, self._dtype.itemsize * 8)

    def take(self, rows: Rows, place: Place) -> Tensor:
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

    def take(self, rows: Rows, place: Place) -> Tensor:
        out = place.tensor((len(rows.within),), torch.bool)
        out.numpy()[:] = take_bits(self._bits, rows)
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

    def take(self, rows: Rows, place: Place) -> Ragged:
        at = self._offsets.at(rows) + rows.within
        offsets = self._offsets.view(self._offset_type)
        starts = offsets[at].astype(np.int64)
        lengths = offsets[at + 1] - starts
        valid = self.valid(rows)
        if valid is not None:
            lengths[~valid] = 0
        chunks = rows.chunks if isinstance(rows.chunks, int) else rows.chunks.repeat(lengths)
        within = Rows(_ranges(starts, lengths), chunks)
        return Ragged(self._values.take(within, place), lengths)

    @staticmethod
    def merge(parts: Parts, count: int, place: Place) -> Ragged:
        lengths = np.zeros(count, np.int64)
        for at, part in parts:
            lengths[at] = part.lengths
        starts = lengths.cumsum() - lengths
        moved = [(_ranges(starts[at], part.lengths), part.values) for at, part in parts]
        return Ragged(merge_tensors(moved, int(lengths.sum()), place), lengths)


class _ObjectColumn(Column):
    """Anything else: a list of Python objects, as pyarrow makes them."""

    def __init__(self, whole: Any, chunks: int) -> None:
        super().__init__(whole, chunks)
        self._arrays: dict[int, Any] = {}

    def attach(self, chunk: int, array: Any) -> None:
        self._arrays[chunk] = array

    def valid(self, rows: Rows) -> Bools | None:
        found = [each is not None for each in self.take(rows, HEAP)]
        return None if all(found) else np.array(found)

    def take(self, rows: Rows, place: Place) -> list[Any]:
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


def take_bits(bits: Bytes, rows: Rows) -> Bools:
    """Bits of rows as booleans."""
    at = bits.at(rows) + rows.within
    taken = (bits.view(np.uint8)[at >> 3] >> (at & 7).astype(np.uint8)) & 1
    return taken.astype(np.bool_)  # type: ignore[no-any-return]


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
