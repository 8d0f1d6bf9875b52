"""Read one Arrow IPC file, which is mapped and checked batch by batch when it is first touched.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a path.
Gives: blocks of rows, read where they lie, or, of a compressed file, one record batch each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from fastload.datasets.arrow_buffers import BufferRows, Ints
from fastload.datasets.arrow_columns import Column
from fastload.datasets.arrow_objects import ConstantColumn, ScatteredColumn, column_of
from fastload.datasets.arrow_types import convert
from fastload.datasets.checksums import ARROW, Extents, expect_table, is_intact, read_table
from fastload.datasets.files import Files
from fastload.datasets.row_blocks import (
    TableBlock,
    as_types,
    place,
    reading,
    refuse_nulls_within,
)
from fastload.errors import CorruptDataError

_STREAM_STARTS = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00")
"""The format without a footer begins with these bytes, new and old style."""


class IpcFile:
    """The record batches of an Arrow file, or of a stream file, such as Hugging Face's.

    Args:
        files: Says where the path is.
        path: The file.
        verify: Check each record batch before it is first read.

    Raises:
        OSError: It can't be opened.
        CorruptDataError: It is damaged where every reader has to look.
    """

    def __init__(self, files: Files, path: str, *, verify: bool) -> None:
        self.path = path
        self._verify = verify
        self._checked: set[int] = set()
        self._table: Extents | None = None
        with files.open(path) as source, reading(path):
            self._whole = source.read_buffer(source.size())
            is_file = bytes(self._whole[: len(ARROW)]) == ARROW
            if is_file or bytes(self._whole[:4]) not in _STREAM_STARTS:
                self._open_file()
            else:
                self._batches = list(pa.ipc.open_stream(pa.BufferReader(self._whole)))
                self.schema = pa.ipc.open_stream(pa.BufferReader(self._whole)).schema
                self._count = len(self._batches)
        self._said = files.partitions.of(path, self.schema)
        self.schema = files.partitions.schema(self.schema)
        self._rows = self._count_rows()
        self._is_mapped = self._lies_in_file()

    def _open_file(self) -> None:
        if self._verify:
            self._table = read_table(pa.BufferReader(self._whole), ARROW, self.path)
        self._reader = pa.ipc.open_file(pa.BufferReader(self._whole))
        self.schema = self._reader.schema
        self._count = self._reader.num_record_batches
        self._batches = []
        if self._verify:
            expect_table(self._table, self.schema.metadata, self.path)
        if self._table is not None and self._has_dictionaries():
            for number in range(self._count):  # any of them may hold a part of a dictionary
                self._check(number)

    def blocks(self) -> list[int | None]:
        """Return the record batch of each block; None stands for all of them as one, mapped."""
        return [None] if self._is_mapped else list(range(self._count))

    def block_lengths(self) -> list[int]:
        """Return the number of rows of each block."""
        return [sum(self._rows)] if self._is_mapped else list(self._rows)

    def mapped(self, types: dict[str, Any]) -> MappedBlock:
        """Return all rows as one block, read where they lie in the mapped file.

        Args:
            types: For each column that is read, the type it is converted to.
        """
        return MappedBlock(self, types, self._whole, self._rows)

    def read(self, number: int, types: dict[str, Any]) -> TableBlock:
        """Return the rows of one record batch, uncompressed; ``types`` is as for ``mapped``."""
        batch = self.batch(number)
        table = pa.Table.from_batches([batch])
        for name, value in self._said.items():
            table = table.append_column(name, pa.repeat(value, batch.num_rows))
        return TableBlock(as_types(table, types), place(self.path, number, None))

    def column(self, name: str, target: Any, whole: Any, chunks: int) -> Column:
        """Make the column that reads a column of the mapped file."""
        if name in self._said:
            return ConstantColumn(self._said[name].as_py(), target)
        return column_of(self.schema.field(name).type, target, whole, chunks)

    def batch(self, number: int) -> Any:
        """Return a record batch, after it was checked.

        Raises:
            CorruptDataError: It is damaged.
        """
        self._check(number)
        rows = self._span(number) if hasattr(self, "_rows") else None
        with reading(self.path, number, rows):
            batch = self._batches[number] if self._batches else self._reader.get_batch(number)
            if self._verify and self._table is None and number not in self._checked:
                batch.validate(full=True)
                self._checked.add(number)
        return batch

    def _check(self, number: int) -> None:
        if self._table is None or number in self._checked:
            return
        (extent,) = self._table.extents[number]
        content = self._whole[extent.offset : extent.offset + extent.size_bytes]
        if not is_intact(content, extent):
            ends = np.cumsum(self._table.rows)
            rows = int(ends[number]) - self._table.rows[number], int(ends[number])
            raise CorruptDataError(
                f"{place(self.path, number, rows)} is damaged: its bytes are not those that were "
                f"written; get the file from its source again",
                self.path,
                number,
                rows,
            )
        self._checked.add(number)

    def _count_rows(self) -> list[int]:
        if self._table is not None:
            if len(self._table.rows) != self._count:
                raise CorruptDataError(f"{self.path}: its table and its footer differ", self.path)
            return list(self._table.rows)
        with reading(self.path):
            if self._batches:
                return [batch.num_rows for batch in self._batches]
            return [self._reader.get_batch(number).num_rows for number in range(self._count)]

    def _lies_in_file(self) -> bool:
        """Return whether columns can be read in the file itself, because it is not compressed."""
        if not self._count:
            return True
        start, end = self._whole.address, self._whole.address + self._whole.size
        return all(
            start <= buffer.address and buffer.address + buffer.size <= end
            for column in self.batch(0).columns
            for buffer in column.buffers()
            if buffer is not None and buffer.size
        )

    def _has_dictionaries(self) -> bool:
        return any("dictionary<" in str(field.type) for field in self.schema)

    def _span(self, number: int) -> tuple[int, int]:
        start = sum(self._rows[:number])
        return start, start + self._rows[number]


class MappedBlock:
    """All rows of a mapped file; a record batch is checked when a row of it is first read."""

    def __init__(self, file: IpcFile, types: dict[str, Any], whole: Any, rows: list[int]) -> None:
        self._file = file
        self._ends = np.cumsum(rows, dtype=np.int64)
        self._starts = self._ends - np.array(rows, np.int64)
        self._is_attached = np.zeros(len(rows), np.bool_)
        self.columns: dict[str, Column] = {
            name: file.column(name, target, whole, len(rows)) for name, target in types.items()
        }

    def locate(self, rows: Ints) -> BufferRows:
        """Do what ``Block.locate`` says."""
        chunks = np.searchsorted(self._ends, rows, side="right")
        if not self._is_attached[chunks].all():
            for chunk in np.unique(chunks[~self._is_attached[chunks]]).tolist():
                self._attach(chunk)
        return BufferRows(rows - self._starts[chunks], chunks)

    def _attach(self, chunk: int) -> None:
        batch = self._file.batch(chunk)
        for name, column in self.columns.items():
            if isinstance(column, ConstantColumn):
                continue
            array = batch.column(batch.schema.get_field_index(name))
            if isinstance(column, ScatteredColumn):
                array = convert(array, column.type)
            refuse_nulls_within(name, array, place(self._file.path, chunk, None))
            column.attach(chunk, array)
        self._is_attached[chunk] = True
