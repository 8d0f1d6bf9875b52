"""Read the row groups of Parquet files, one at a time, and check them.

Runs in: worker (consumer with ``num_workers=0``); footers are read where the dataset is made.
Takes: files and the columns to read.
Gives: tables.

No file stays open, so nothing has to be opened again after a fork; what is kept of a file is its
footer.
"""

from __future__ import annotations

import functools
import operator
import zlib
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq

from fastload.datasets.arrow_types import Decimals, convert, fixed, readable
from fastload.datasets.checksums import PARQUET, Extents, expect_table, is_intact, read_table
from fastload.datasets.files import Files, find_files, one_schema
from fastload.datasets.row_blocks import in_one_piece, place, reading
from fastload.errors import CorruptDataError

SUFFIXES = (".parquet", ".pq", ".parq")


class Group(NamedTuple):
    """One row group of a dataset.

    Attributes:
        path: Its file.
        number: Its number within the file.
        rows: Its number of rows.
        first: The number of its first row, counted over all rows of the dataset.
        first_in_file: The same, counted within the file.
    """

    path: str
    number: int
    rows: int
    first: int
    first_in_file: int

    def __str__(self) -> str:
        return place(self.path, self.number, self.span)

    @property
    def span(self) -> tuple[int, int]:
        """Return its first row within the file and the one after its last."""
        return self.first_in_file, self.first_in_file + self.rows


class _Footer(NamedTuple):
    metadata: Any
    checksums: Extents | None


def _checksum_of(groups: list[Group]) -> int:
    return zlib.crc32(repr([(PurePath(group.path).name, group.rows) for group in groups]).encode())


class RowGroups:
    """All row groups of some files, in order.

    Args:
        source: What ``find_files`` takes.
        columns: Names of the columns to read; None: all.
        filesystem: A file system of pyarrow's or fsspec's; None: the local disk.
        verify: Compare checksums where a file has them.
        decimals: What becomes of decimal numbers.

    Raises:
        FileNotFoundError: No file was found.
        ValueError: Schemas differ.
        CorruptDataError: A file is damaged where every reader has to look.
    """

    def __init__(
        self,
        source: Any,
        columns: Sequence[str] | None,
        filesystem: Any,
        *,
        verify: bool,
        decimals: Decimals = "error",
    ) -> None:
        self._files: Files = find_files(source, filesystem, SUFFIXES)
        self._verify = verify
        self._footers: dict[str, _Footer] = {}
        self._fragments: dict[str, Any] = {}
        schemas, self.groups = [], list[Group]()
        for path in self._files.paths:
            metadata = self._footer(path).metadata
            with reading(path):
                schema = metadata.schema.to_arrow_schema()
            schemas.append((path, self._files.partitions.schema(schema)))
            self._add(path, metadata)
        self.checksum = _checksum_of(self.groups)
        """A checksum of the names of the files and of the rows of each group, for states."""
        self.schema = one_schema(schemas, columns)
        self._types = [readable(field.type, decimals) for field in self.schema]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_footers": {}, "_fragments": {}}

    def read(self, group: Group) -> Any:
        """Return a row group as a table of one chunk a column.

        Raises:
            CorruptDataError: It is damaged.
            OSError: The file can't be read.
        """
        footer = self._footer(group.path)
        is_local = self._files.filesystem is None
        with self._files.open(group.path) as source, reading(group.path, group.number, group.span):
            # What our writer wrote has a checksum for all of a column; comparing it means to read
            # it twice, which only a mapped file makes cheap.
            is_checked = footer.checksums is not None and is_local
            if is_checked:
                self._check(source, group, footer)
            with pq.ParquetFile(
                source,
                metadata=footer.metadata,
                page_checksum_verification=self._verify and not is_checked,
                pre_buffer=not is_local,
            ) as file:
                said = self._said(group.path)
                names = [name for name in self.schema.names if name not in said]
                table = file.read_row_group(group.number, names, use_threads=False)
            for name, column in said.items():
                if name in self.schema.names:
                    table = table.append_column(name, pa.repeat(column, group.rows))
            return self._ready(group, table, group.rows, is_checked=is_checked)

    def read_filtered(self, group: Group, filters: Any) -> Any:
        """Return those rows of a row group that a ``pyarrow.compute.Expression`` is true of.

        Columns that the expression names need not be among those that are read; a group that cannot
        have such rows, by its statistics, is not read at all.

        Raises:
            CorruptDataError: It is damaged.
            OSError: The file can't be read.
        """
        with reading(group.path, group.number, group.span):
            fragment = self._fragment(group.path).subset(row_group_ids=[group.number])
            schema = self._files.partitions.schema(fragment.physical_schema)
            table = fragment.to_table(
                schema=schema, columns=self.schema.names, filter=filters, use_threads=False
            )
            return self._ready(group, table, None, is_checked=False)

    def _ready(self, group: Group, table: Any, rows: int | None, *, is_checked: bool) -> Any:
        if rows is not None and table.num_rows != rows:
            raise CorruptDataError(
                f"{group} has {table.num_rows} rows, not {rows} as its footer says",
                group.path,
                group.number,
                group.span,
            )
        table = table.select(self.schema.names)
        for number, kind in enumerate(self._types):
            column = table.column(number)
            if self._verify and not is_checked and fixed(kind) is None:
                column.validate(full=True)  # or a string that is none is found when it is used
            if column.num_chunks > 1 or column.type != kind:
                name = table.column_names[number]
                table = table.set_column(number, name, in_one_piece(convert(column, kind)))
        return table

    def _said(self, path: str) -> dict[str, Any]:
        """Return the columns that a file has of its path alone, and the value of each."""
        partitions = self._files.partitions
        if not partitions.fields:
            return {}
        return partitions.of(path, self._footer(path).metadata.schema.to_arrow_schema())

    def _add(self, path: str, metadata: Any) -> None:
        first_in_file = 0
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            first = self.groups[-1].first + self.groups[-1].rows if self.groups else 0
            self.groups.append(Group(path, number, rows, first, first_in_file))
            first_in_file += rows

    def _footer(self, path: str) -> _Footer:
        if path not in self._footers:
            with self._files.open(path) as source, reading(path):
                table = read_table(source, PARQUET, path) if self._verify else None
                source.seek(0)
                metadata = pq.read_metadata(source)
                if self._verify:
                    expect_table(table, metadata.metadata, path)
            self._footers[path] = _Footer(metadata, table)
        return self._footers[path]

    def _check(self, source: Any, group: Group, footer: _Footer) -> None:
        columns = footer.metadata.row_group(group.number)
        wanted = set(self.schema.names)
        for number, extent in enumerate(footer.checksums.extents[group.number]):  # type: ignore[union-attr]
            name = columns.column(number).path_in_schema
            is_read = name in wanted or name.split(".")[0] in wanted
            if not is_read:
                continue
            source.seek(extent.offset)
            if not is_intact(source.read_buffer(extent.size_bytes), extent):
                raise CorruptDataError(
                    f"{group}: column {name!r} is damaged: its bytes are not those that were "
                    f"written; get the file from its source again",
                    group.path,
                    group.number,
                    group.span,
                )

    def _fragment(self, path: str) -> Any:
        if path not in self._fragments:
            self._footer(path)  # compares the footer's checksum
            options = pyarrow.dataset.ParquetFragmentScanOptions(
                page_checksum_verification=self._verify
            )
            form = pyarrow.dataset.ParquetFileFormat(default_fragment_scan_options=options)
            filesystem = self._files.filesystem or pa.fs.LocalFileSystem()
            said = (
                pyarrow.compute.field(name).is_null()
                if value.as_py() is None
                else pyarrow.compute.field(name) == value
                for name, value in self._said(path).items()
            )
            always = pyarrow.compute.scalar(True)
            expression = functools.reduce(operator.and_, said, always)
            self._fragments[path] = form.make_fragment(path, filesystem, expression)
        return self._fragments[path]
