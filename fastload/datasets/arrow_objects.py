"""Read Arrow columns that are not one tensor: Python objects, structs, and converted ones.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an Arrow type, then the chunks of a column, and rows of them.
Gives: lists of Python objects, a dict of columns, or what the converted column gives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fastload._memory.write import HEAP, Place
from fastload.datasets.arrow_buffers import Bools, BufferRows, Ints
from fastload.datasets.arrow_columns import BoolColumn, Column, FixedColumn, RaggedColumn
from fastload.datasets.arrow_types import fixed, is_text, ragged, readable, take
from fastload.datasets.nodes import Parts, merge_tensors


class StructRows(dict[str, tuple[Any, Bools | None]]):
    """Maps each field of a struct to its rows and to which of them are not null."""


class _ObjectColumn(Column):
    """A column whose rows are Python objects, as pyarrow makes them."""

    def __init__(self, whole: Any, chunks: int) -> None:
        super().__init__(whole, chunks)
        self._arrays: dict[int, Any] = {}
        self._may_be_null = False

    def attach(self, chunk: int, array: Any) -> None:
        self._arrays[chunk] = array
        self._may_be_null = self._may_be_null or _may_be_null(array)

    def valid(self, rows: BufferRows) -> Bools | None:
        return _not_none(self.take(rows, HEAP)) if self._may_be_null else None

    def take(self, rows: BufferRows, place: Place) -> list[Any]:
        del place
        if isinstance(rows.chunks, int):
            taken: list[Any] = take(self._arrays[rows.chunks], pa.array(rows.within)).to_pylist()
            return taken
        chunks, which = np.unique(rows.chunks, return_inverse=True)
        arrays = [self._arrays[chunk] for chunk in chunks.tolist()]
        starts = np.cumsum([0, *map(len, arrays[:-1])])
        rows_of_joined = pa.array(starts[which] + rows.within)
        joined: list[Any] = take(pa.chunked_array(arrays), rows_of_joined).to_pylist()
        return joined

    def slice(self, first: int, count: int, place: Place) -> list[Any]:
        del place
        sliced: list[Any] = self._arrays[0].slice(first, count).to_pylist()
        return sliced

    def valid_slice(self, first: int, count: int) -> Bools | None:
        return _not_none(self.slice(first, count, HEAP)) if self._may_be_null else None

    def merge(self, parts: Parts, count: int, place: Place) -> list[Any]:
        del place
        return merge_objects(parts, count)


class _StructColumn(Column):
    """A column of structs, which has a column for each field."""

    def __init__(self, kind: Any, whole: Any, chunks: int) -> None:
        super().__init__(whole, chunks)
        self._fields = {field.name: make_column(field.type, whole, chunks) for field in kind}

    def attach(self, chunk: int, array: Any) -> None:
        super().attach(chunk, array)
        for number, column in enumerate(self._fields.values()):
            column.attach(chunk, array.field(number))

    def take(self, rows: BufferRows, place: Place) -> StructRows:
        columns = self._fields.items()
        return StructRows({name: (c.take(rows, place), c.valid(rows)) for name, c in columns})

    def slice(self, first: int, count: int, place: Place) -> StructRows:
        columns = self._fields.items()
        return StructRows(
            {
                name: (column.slice(first, count, place), column.valid_slice(first, count))
                for name, column in columns
            }
        )

    def merge(self, parts: Parts, count: int, place: Place) -> StructRows:
        found = StructRows()
        for name, column in self._fields.items():
            taken = [(at, *rows[name]) for at, rows in parts]
            found[name] = merged(column, taken, count, place)
        return found


class ScatteredColumn(Column):
    """A column whose chunks lie apart, each in memory of its own.

    Args:
        kind: Its Arrow type.
        chunks: How many there are.
    """

    def __init__(self, kind: Any, chunks: int) -> None:
        super().__init__(None, chunks)
        self.type = kind
        self._columns: dict[int, Column] = {}

    def attach(self, chunk: int, array: Any) -> None:
        """Learn where a chunk lies."""
        self._columns[chunk] = column = make_column(self.type, None, 1)
        column.attach(0, array)

    def valid(self, rows: BufferRows) -> Bools | None:
        """Do what ``Column.valid`` says."""
        return self._read(rows, HEAP)[1]

    def take(self, rows: BufferRows, place: Place) -> Any:
        """Do what ``Column.take`` says."""
        return self._read(rows, place)[0]

    def _read(self, rows: BufferRows, place: Place) -> tuple[Any, Bools | None]:
        if isinstance(rows.chunks, int):
            column, inner = self._columns[rows.chunks], BufferRows(rows.within, 0)
            return column.take(inner, place), column.valid(inner)
        parts = []
        for chunk in np.unique(rows.chunks).tolist():
            at = np.flatnonzero(rows.chunks == chunk)
            column, inner = self._columns[chunk], BufferRows(rows.within[at], 0)
            parts.append((at, column.take(inner, HEAP), column.valid(inner)))
        column = next(iter(self._columns.values()), None) or make_column(self.type, None, 1)
        return merged(column, parts, len(rows.within), place)

    def slice(self, first: int, count: int, place: Place) -> Any:
        """Do what ``Column.slice`` says."""
        return self._columns[0].slice(first, count, place)

    def valid_slice(self, first: int, count: int) -> Bools | None:
        """Do what ``Column.valid_slice`` says."""
        return self._columns[0].valid_slice(first, count)

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        """Do what ``Column.merge`` says."""
        return make_column(self.type, None, 1).merge(parts, count, place)


class ConstantColumn(Column):
    """A column with one value in all rows of a file, which the file's path says.

    Args:
        value: An integer, a string, or None.
        kind: Its Arrow type.
    """

    def __init__(self, value: int | str | None, kind: Any) -> None:
        super().__init__(None, 1)
        self._value = value
        self._is_number = pa.types.is_integer(kind)

    def attach(self, chunk: int, array: Any) -> None:
        """Do nothing, since nothing in the file belongs to the column."""

    def valid(self, rows: BufferRows) -> Bools | None:
        """Do what ``Column.valid`` says."""
        return np.zeros(len(rows.within), np.bool_) if self._value is None else None

    def take(self, rows: BufferRows, place: Place) -> Any:
        """Do what ``Column.take`` says."""
        count = len(rows.within)
        if not self._is_number:
            return [self._value] * count
        return place.tensor((count,), torch.int64).fill_(int(self._value or 0))

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        """Do what ``Column.merge`` says."""
        if self._is_number:
            return merge_tensors(parts, count, place)
        return merge_objects(parts, count)


def make_column(kind: Any, whole: Any, chunks: int) -> Column:
    """Make the column that reads an Arrow type.

    Args:
        kind: Its ``pyarrow.DataType``.
        whole: The buffer in which all its chunks lie; None: there is one chunk, anywhere.
        chunks: How many chunks there are; each must be attached before it is read.
    """
    if pa.types.is_boolean(kind):
        return BoolColumn(whole, chunks)
    if (numbers := fixed(kind)) is not None:
        return FixedColumn(whole, chunks, *numbers)
    if (numbers := ragged(kind)) is not None:
        offsets = np.int64 if pa.types.is_large_list(kind) else np.int32
        return RaggedColumn(whole, chunks, *numbers, offsets)
    if pa.types.is_struct(kind):
        return _StructColumn(kind, whole, chunks)
    return _ObjectColumn(whole, chunks)


def column_of(kind: Any, target: Any, whole: Any, chunks: int) -> Column:
    """Make the column that reads an Arrow type of a mapped file as another type.

    What becomes Python objects in any case is read where it lies.

    Args:
        kind: The ``pyarrow.DataType`` in the file.
        target: The type as which it is read.
        whole: The buffer in which all chunks lie.
        chunks: The number of chunks.
    """
    is_object = type(make_column(target, None, 1)) is _ObjectColumn
    has_decimals = readable(kind, "error") != readable(kind, "float64")
    if kind == target or (is_object and not has_decimals and not pa.types.is_run_end_encoded(kind)):
        return make_column(kind, whole, chunks)
    return ScatteredColumn(target, chunks)


def merged(
    column: Column, parts: list[tuple[Ints, Any, Bools | None]], count: int, place: Place
) -> tuple[Any, Bools | None]:
    """Join rows of several blocks, each with where it goes; say also which rows are not null."""
    valid = np.ones(count, np.bool_)
    for at, _, validity in parts:
        if validity is not None:
            valid[at] = validity
    values = column.merge([(at, values) for at, values, _ in parts], count, place)
    return values, None if valid.all() else valid


def merge_objects(parts: Parts, count: int) -> list[Any]:
    """Join Python objects of several blocks to one list."""
    joined: list[Any] = [None] * count
    for at, values in parts:
        for position, value in zip(at.tolist(), values, strict=True):
            joined[position] = value
    return joined


def _not_none(values: list[Any]) -> Bools | None:
    found = [each is not None for each in values]
    return None if all(found) else np.array(found)


def _may_be_null(array: Any) -> bool:
    """Return whether a row may be None, which a dictionary or a union has in its values too."""
    kind = array.type
    is_told = is_text(kind) or pa.types.is_nested(kind) or isinstance(kind, pa.UuidType)
    if pa.types.is_dictionary(kind) or pa.types.is_union(kind):
        is_told = False
    return not is_told or array.null_count > 0
