"""Rows of a table that are read together, and the cache of those that were read.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a table of one chunk a column, or the record batches of a mapped file.
Gives: columns from which rows can be taken.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from fastload._system.interruptions import is_from_outside
from fastload.datasets.arrow_buffers import BufferRows, Ints
from fastload.datasets.arrow_columns import Column
from fastload.datasets.arrow_objects import make_column
from fastload.datasets.arrow_types import convert, null_within
from fastload.errors import CorruptDataError

_MOST_BYTES = 2**31 - 1
_OF_DAMAGE = (pa.ArrowException, UnicodeDecodeError, OverflowError)


class Block(Protocol):
    """Some consecutive rows of a dataset, as columns."""

    columns: dict[str, Column]

    def locate(self, rows: Ints) -> BufferRows:
        """Make rows, given by their number in the block, ready to be taken; return where they lie.

        Raises:
            CorruptDataError: What holds them is damaged.
        """


class TableBlock:
    """A block that is a table in memory.

    Args:
        table: A table of one chunk a column, or of none if it is empty.
        name: What it is, for errors.
    """

    def __init__(self, table: Any, name: str) -> None:
        self.table = table
        self.rows: int = table.num_rows
        self.size_bytes: int = table.nbytes
        self.columns: dict[str, Column] = {}
        refuse_nulls(table, name)
        for field, column in zip(table.schema, table.columns, strict=True):
            self.columns[field.name] = made = make_column(field.type, None, 1)
            made.attach(0, in_one_piece(column))

    def locate(self, rows: Ints) -> BufferRows:
        """Do what ``Block.locate`` says."""
        return BufferRows(rows, 0)


class BlockCache:
    """Keeps the blocks that were read last, within a number of bytes, but one at least.

    Any number of threads may use it. The lock is never held while something is read, so that a fork
    finds it free; two threads may therefore read the same block.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._blocks: OrderedDict[Any, TableBlock] = OrderedDict()
        self._lock = threading.Lock()
        self._size_bytes = 0

    def get(self, key: Any, read: Callable[[], TableBlock]) -> TableBlock:
        """Return the block of this key, from the cache or read now."""
        with self._lock:
            if (block := self._blocks.get(key)) is not None:
                self._blocks.move_to_end(key)
                return block
        block = read()
        with self._lock:
            if key not in self._blocks:
                self._size_bytes += block.size_bytes
            self._blocks[key] = block
            while self._size_bytes > self.limit_bytes and len(self._blocks) > 1:
                _, oldest = self._blocks.popitem(last=False)
                self._size_bytes -= oldest.size_bytes
        return block

    def __reduce__(self) -> tuple[type[BlockCache], tuple[int]]:
        return BlockCache, (self.limit_bytes,)


def as_types(table: Any, types: dict[str, Any]) -> Any:
    """Convert columns of a table to the types in which they are read, of one chunk each."""
    columns = [in_one_piece(convert(table.column(name), kind)) for name, kind in types.items()]
    return pa.table(columns, list(types)) if types else table.select([])


def in_one_piece(column: Any, most_bytes: int = _MOST_BYTES) -> Any:
    """Return the chunks of a column as one array.

    It gets 64-bit offsets if 32 bits can't count its bytes.

    Args:
        column: A ``pyarrow.ChunkedArray``.
        most_bytes: From how many bytes on offsets are widened.

    Raises:
        ValueError: It is too large for its type, and its type has no wider form.
    """
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.nbytes > most_bytes:
        column = column.cast(_widened(column.type))
    try:
        return column.combine_chunks()
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{column.nbytes:,} bytes of type {column.type} can't be one array: {error}. Lower "
            f"buffer_rows=, or write the file with smaller row groups"
        ) from error


def refuse_nulls(table: Any, where: str) -> None:
    """Refuse lists of numbers with nulls inside, in any column.

    Raises:
        ValueError: There are some; the message names column and row.
    """
    for name, column in zip(table.column_names, table.columns, strict=True):
        refuse_nulls_within(name, in_one_piece(column), where)


def refuse_nulls_within(name: str, array: Any, where: str) -> None:
    """Refuse lists of numbers with nulls inside: no tensor can hold them.

    Raises:
        ValueError: There are some; the message names the first row.
    """
    if pa.types.is_struct(array.type):
        for number, field in enumerate(array.type):
            refuse_nulls_within(f"{name}.{field.name}", array.field(number), where)
        return
    row = null_within(array)
    if row is not None:
        raise ValueError(
            f"{where}: column {name!r} has a null inside the list of row {row}; nulls= and fill= "
            f"are for rows that are null as a whole. Fill them when the file is written"
        )


@contextlib.contextmanager
def reading(
    path: str, row_group: int | None = None, rows: tuple[int, int] | None = None
) -> Iterator[None]:
    """Turn what pyarrow raises of a damaged file into an error that says which and where."""
    try:
        yield
    except (*_OF_DAMAGE, OSError) as error:
        is_of_the_file = getattr(error, "errno", None) is None and not is_from_outside(error)
        if isinstance(error, pa.ArrowCancelled) or not is_of_the_file:
            raise
        raise CorruptDataError(
            f"{place(path, row_group, rows)} can't be read: {error}. The file is damaged, or "
            f"is not of this format",
            path,
            row_group,
            rows,
        ) from error


def _widened(kind: Any) -> Any:
    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_binary(kind):
        return pa.large_binary()
    return pa.large_list(kind.value_field) if pa.types.is_list(kind) else kind


def place(path: str, row_group: int | None, rows: tuple[int, int] | None) -> str:
    """Name a part of a file."""
    where = path
    if row_group is not None:
        where += f", row group {row_group}"
    if rows is not None:
        where += f" (rows {rows[0]:,} to {rows[1] - 1:,})"
    return where


def group(numbers: Ints) -> Iterator[tuple[int, Ints]]:
    """Yield each number that occurs, and where."""
    for number in np.unique(numbers).tolist():
        yield number, np.flatnonzero(numbers == number)
