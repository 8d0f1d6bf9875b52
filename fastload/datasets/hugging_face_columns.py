"""What the columns of a Hugging Face dataset become, by Arrow type and format.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an Arrow type and a format, then the chunks of a column, and rows of them.
Gives: what the default collate makes of those rows as ``datasets`` formats them.

Only what is equal in every bit is here; the tests compare each entry with ``datasets`` itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fastload._memory.layout import Shape
from fastload._memory.write import HEAP, Place
from fastload.datasets.arrow_buffers import Bools, BufferRows
from fastload.datasets.arrow_columns import Column, FixedColumn
from fastload.datasets.arrow_objects import make_column, merge_objects
from fastload.datasets.arrow_types import null_within
from fastload.datasets.nodes import NotGatherableError, Parts, merge_tensors

EVERYWHERE = pa.foreign_buffer(4096, (1 << 48) - 8192)
"""The address space of the process, in which all chunks of a column lie.

The first page is never mapped. Nothing is read but the rows that are asked for, which the table
keeps alive.
"""

_CAST_TO = {
    "iub": {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32},
    "f": {torch.float16, torch.bfloat16, torch.float32, torch.float64},
}
"""To what a column may be cast by the format's ``dtype``, by the letters of NumPy's kinds."""


class FormattedColumn:
    """One column as a format gives it.

    Args:
        column: Reads its rows.
    """

    def __init__(self, column: Column) -> None:
        self._column = column

    width: int | None = None
    """The bytes of a row in a batch, where all rows have as many."""

    def attach(self, chunk: int, array: Any) -> bool:
        """Learn where a chunk lies; return False if its rows can't be read here."""
        if null_within(array) is not None:
            return False
        self._column.attach(chunk, array)
        return True

    def valid(self, rows: BufferRows) -> Bools | None:
        """Return a mask of rows, True where a row is not null; None if none is null."""
        return self._column.valid(rows)

    def take(self, rows: BufferRows, place: Place) -> Any:
        """Return the rows.

        Raises:
            NotGatherableError: ``datasets`` must read them.
        """
        raise NotImplementedError

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        """Join rows of several datasets.

        Raises:
            NotGatherableError: They must be read sample by sample.
        """
        raise NotImplementedError


class _TensorOfNumbers(FormattedColumn):
    """Numbers, or arrays of numbers of one shape, as one tensor."""

    def __init__(self, column: Column, dtype: torch.dtype, shape: Shape = ()) -> None:
        super().__init__(column)
        self._dtype = dtype
        self.width = math.prod(shape) * dtype.itemsize

    def take(self, rows: BufferRows, place: Place) -> Any:
        # Numbers of the right type are read into the place, others are converted into it.
        found = self._column.take(rows, place if self._is_as_stored() else HEAP)
        return self._put(found, place)

    def _is_as_stored(self) -> bool:
        if isinstance(self._column, FixedColumn):
            return self._column.torch_dtype is self._dtype
        return self._dtype is torch.bool

    def _put(self, found: Tensor, place: Place) -> Tensor:
        if found.dtype is self._dtype:
            return found
        return place.tensor(tuple(found.shape), self._dtype).copy_(found)

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        if len({batch.shape[1:] for _, batch in parts}) > 1:
            raise NotGatherableError
        return merge_tensors(parts, count, place)


class _NestedLists(_TensorOfNumbers):
    """Arrays of one shape, stored as lists in lists (``Array2D`` and its like)."""

    def __init__(self, column: Column, dtype: torch.dtype, shape: Shape) -> None:
        super().__init__(column, dtype, shape)
        self._shape = shape

    def attach(self, chunk: int, array: Any) -> bool:
        flat = array.storage
        for _ in self._shape:
            if flat.null_count:
                return False
            flat = flat.flatten()
        size = math.prod(self._shape)
        if flat.null_count or len(flat) != len(array) * size:
            return False
        self._column.attach(chunk, pa.FixedSizeListArray.from_arrays(flat, size))
        return True


class _Lists(_TensorOfNumbers):
    """Lists of numbers, as one tensor if they are equally long, as those of most batches are."""

    def __init__(self, column: Column, dtype: torch.dtype) -> None:
        super().__init__(column, dtype)
        self.width = None

    def take(self, rows: BufferRows, place: Place) -> Any:
        return self._put_apart(_equally_long(self._column.take(rows, HEAP)), place)

    def _put_apart(self, found: Tensor, place: Place) -> Any:
        return place.tensor(tuple(found.shape), self._dtype).copy_(found)


class _ListsOfColumns(_Lists):
    """Lists of Python's numbers, of which the default collate makes a tensor for each position."""

    def _put_apart(self, found: Tensor, place: Place) -> Any:
        count = len(found)
        return [place.tensor((count,), self._dtype).copy_(each) for each in found.unbind(1)]

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        del parts, count, place
        raise NotGatherableError


class _Text(FormattedColumn):
    """Strings or bytes, as a list of Python's."""

    def take(self, rows: BufferRows, place: Place) -> list[Any]:
        del place
        return self._column.take(rows, HEAP)  # type: ignore[no-any-return]

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        del place
        return merge_objects(parts, count)


class _TextOfNumPy(_Text):
    """Strings or bytes that went through an array of NumPy, which drops zeros at their ends."""

    def __init__(self, column: Column, *, is_plain: bool) -> None:
        super().__init__(column)
        self._is_plain = is_plain

    def take(self, rows: BufferRows, place: Place) -> list[Any]:
        values = super().take(rows, place)
        if not self._is_plain:
            return list(np.asarray(values))
        return [each.rstrip("\0" if isinstance(each, str) else b"\0") for each in values]


def formatted(
    kind: Any, style: str | None, dtype: torch.dtype | None, chunks: int
) -> FormattedColumn | None:
    """Make the column that reads an Arrow type as a format gives it; None: nothing here can.

    Args:
        kind: The ``pyarrow.DataType``.
        style: ``"torch"``, ``"numpy"`` or None, as in ``with_format``.
        dtype: To what ``with_format("torch", dtype=...)`` casts numbers.
        chunks: How many chunks the column has; each must be attached before it is read.
    """
    if _is_text(kind):
        column = make_column(kind, EVERYWHERE, chunks)
        return _Text(column) if style is None else _TextOfNumPy(column, is_plain=style == "torch")
    numbers = _numbers(kind)
    target = None if numbers is None else _target(numbers[0], style, dtype)
    if numbers is None or target is None:
        return None
    return _of_numbers(kind, numbers, style, target, chunks)


def _of_numbers(
    kind: Any,
    numbers: tuple[np.dtype[Any], Shape],
    style: str | None,
    target: torch.dtype,
    chunks: int,
) -> FormattedColumn | None:
    stored, shape = numbers
    if isinstance(kind, pa.BaseExtensionType):
        arrays = FixedColumn(EVERYWHERE, chunks, stored, shape)
        return None if style is None else _NestedLists(arrays, target, shape)
    column = make_column(kind, EVERYWHERE, chunks)
    if not pa.types.is_nested(kind):
        return _TensorOfNumbers(column, target)
    if style is None:
        return _ListsOfColumns(column, target)
    return _TensorOfNumbers(column, target, shape) if shape else _Lists(column, target)


def formatted_indices(chunks: int) -> FormattedColumn:
    """Make the column that reads row numbers; they are stored without a sign, read with one."""
    return _TensorOfNumbers(FixedColumn(EVERYWHERE, chunks, np.dtype(np.int64), ()), torch.int64)


def _is_text(kind: Any) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string)
    return any(test(kind) for test in (*tests, pa.types.is_binary, pa.types.is_large_binary))


def _numbers(kind: Any) -> tuple[np.dtype[Any], Shape] | None:
    """Return the numbers in a row and the row's shape; an empty shape if lengths may differ."""
    if isinstance(kind, pa.BaseExtensionType):
        shape = getattr(kind, "shape", None)
        is_known = type(kind).__module__ == "datasets.features.features"
        if not is_known or not isinstance(shape, tuple) or not all(shape):
            return None
        inner = kind.storage_type
        for _ in shape:
            if not pa.types.is_list(inner):
                return None
            inner = inner.value_type
        number = _number(inner)
        return None if number is None or number == np.bool_ else (number, shape)
    if pa.types.is_fixed_size_list(kind):
        number = _number(kind.value_type)
        is_known = number is not None and number != np.bool_ and kind.list_size > 0
        return (number, (kind.list_size,)) if number is not None and is_known else None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        number = _number(kind.value_type)
        return None if number is None or number == np.bool_ else (number, ())
    number = _number(kind)
    return None if number is None else (number, ())


def _number(kind: Any) -> np.dtype[Any] | None:
    if pa.types.is_boolean(kind):
        return np.dtype(np.bool_)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return np.dtype(kind.to_pandas_dtype()) if is_number and kind != pa.uint64() else None


def _target(
    stored: np.dtype[Any], style: str | None, dtype: torch.dtype | None
) -> torch.dtype | None:
    """Return the dtype of a batch; None if the cast is not known to be the same."""
    if dtype is not None:
        letters = "f" if stored.kind == "f" else "iub"
        return dtype if dtype in _CAST_TO[letters] else None
    if stored.kind == "b":
        return torch.bool
    if stored.kind != "f":
        return torch.int64
    return torch.float64 if style is None else torch.float32


def _equally_long(found: Any) -> Tensor:
    """Return rows of one length as a tensor ``(rows, length)``."""
    if isinstance(found, Tensor):
        return found
    lengths = found.lengths
    first = int(lengths[0])
    if not first or not (lengths == first).all():
        raise NotGatherableError
    rows: Tensor = found.values.view(len(lengths), first)
    return rows
