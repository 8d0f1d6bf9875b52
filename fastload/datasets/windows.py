"""Hold the rows of a stream's buffer in the order in which they are delivered.

Runs in: worker (consumer with ``num_workers=0``); windows are made by the thread that reads.
Takes: tables of whole row groups, and their order.
Gives: the pieces of each batch, and their columns.

Rows are shuffled once, all of a window at a time, in the thread that reads. What is cut from a
window then lies in one piece, so it is copied into a slot without any indices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fastload._memory.write import HEAP, Place
from fastload.datasets.arrow_buffers import Bools, BufferRows, Ints
from fastload.datasets.arrow_objects import merged
from fastload.datasets.arrow_types import take
from fastload.datasets.row_blocks import TableBlock, in_one_piece
from fastload.datasets.tabular import ColumnOptions, Values


class RowWindow:
    """Some rows in memory, in order.

    Args:
        table: A table of one chunk a column.
        spans: The numbers in the dataset of the rows that were read.
        order: Which of those each row is; None: they are as they were read.
        skipped: How many rows of the order come before the first that is here.
    """

    def __init__(
        self, table: Any, spans: list[range], order: Ints | None = None, skipped: int = 0
    ) -> None:
        self._table = table
        self._spans, self._order, self._skipped = spans, order, skipped
        # Not the table's, which has none if no columns are read.
        self.rows = sum(map(len, spans)) - skipped
        self.columns = TableBlock(table, "the buffer").columns

    def locate(self, rows: Ints) -> BufferRows:
        """Return where rows lie in the columns, given by their number in the window."""
        return BufferRows(rows, 0)

    def rest(self, first: int) -> RowWindow:
        """Copy the rows from one on, so that the others need not be kept."""
        if first == 0:
            return self
        rows = pa.array(np.arange(first, self.rows))
        columns = [take(in_one_piece(column), rows) for column in self._table.columns]
        table = pa.table(columns, self._table.schema)
        return RowWindow(table, self._spans, self._order, self._skipped + first)

    def number(self, row: int) -> int:
        """Return the number of a row in the dataset, for errors."""
        at = self._skipped + row
        if self._order is not None:
            at = int(self._order[at])
        for span in self._spans:
            if at < len(span):
                return span[at]
            at -= len(span)
        raise IndexError(row)


class Piece(NamedTuple):
    """Consecutive rows of a window."""

    window: RowWindow
    first: int
    rows: int


class Cutter:
    """Cuts the rows of a batch from window after window.

    Args:
        count: The number of rows of a full batch.
        spans_windows: Whether rows left at the end of a window wait for those of the next.
    """

    def __init__(self, count: int, *, spans_windows: bool) -> None:
        self._count = count
        self._spans_windows = spans_windows
        self.waiting: list[Piece] = []

    def cut(self, window: RowWindow, first: int) -> Iterator[tuple[list[Piece], int]]:
        """Yield the pieces of each full batch, and the row of the window that comes then."""
        missing = self._count - sum(piece.rows for piece in self.waiting)
        while first < window.rows:
            end = min(first + missing, window.rows)
            if self._spans_windows and end < first + missing:
                rest = window.rest(first)
                self.waiting.append(Piece(rest, 0, rest.rows))
                return
            pieces, self.waiting = [*self.waiting, Piece(window, first, end - first)], []
            yield pieces, end
            first, missing = end, self._count


def shuffled(tables: list[Any], order: Ints) -> Any:
    """Put all rows of tables into another order, in one table; the list is emptied.

    A column is let go as soon as it was moved, so two of them are in memory twice, not all.
    """
    names = tables[0].column_names
    columns = [
        pa.chunked_array([chunk for table in tables for chunk in table[name].chunks], field.type)
        for name, field in zip(names, tables[0].schema, strict=True)
    ]
    tables.clear()
    indices = pa.array(order)
    moved = [take(in_one_piece(columns.pop(0)), indices) for _ in names]
    return pa.table(moved, names)


def read(pieces: list[Piece], form: ColumnOptions, place: Place) -> Values:
    """Return the columns of a batch, as ``TableDataset.read`` gives them."""
    count = sum(piece.rows for piece in pieces)
    columns: Values = {}
    for name, column in pieces[0].window.columns.items():
        if len(pieces) == 1:
            first = pieces[0].first
            values = column.slice(first, count, place)
            valid = column.valid_slice(first, count)
        else:
            values, valid = _joined(name, pieces, count, place)
        columns |= form.settle(name, values, valid, lambda at: _number(pieces, at))
    return columns


def _joined(name: str, pieces: list[Piece], count: int, place: Place) -> tuple[Any, Bools | None]:
    """Join a column of several windows; it is only done for a batch that spans two of them."""
    parts, start = [], 0
    for window, first, rows in pieces:
        column = window.columns[name]
        values, valid = column.slice(first, rows, HEAP), column.valid_slice(first, rows)
        parts.append((np.arange(start, start + rows), values, valid))
        start += rows
    return merged(column, parts, count, place)


def _number(pieces: list[Piece], at: int) -> int:
    for window, first, count in pieces:
        if at < count:
            return window.number(first + at)
        at -= count
    raise IndexError(at)
