"""Write Arrow and Parquet files that can be checked when they are read.

Runs in: any process.
Takes: a table, record batches, or arrays by name.
Gives: a file that any reader of the format reads, with checksums that ours compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from fastload.datasets.checksums import ARROW, MARK, PARQUET, add_table
from fastload.datasets.whole_files import whole_file

ROWS_PER_BATCH = 16_384
ROWS_PER_GROUP = 65_536


def write_arrow(data: Any, path: str | Path, *, rows_per_batch: int = ROWS_PER_BATCH) -> None:
    """Write an Arrow IPC file for ``ArrowDataset``, uncompressed so that it can be mapped.

    Each record batch gets a CRC-32, which ``ArrowDataset`` compares when it first touches the
    batch. The file appears under its name only when it is whole.

    Args:
        data: A ``pyarrow.Table``, a record batch, an iterable of either with one schema, a
            DataFrame of pandas or polars, or a mapping of names to arrays and tensors
            ``(rows, ...)`` or lists. An array of several dimensions becomes a column of fixed-size
            lists.
        path: The file to write, on a local disk.
        rows_per_batch: The most rows in a record batch.

    Raises:
        ValueError: There is nothing to write, or schemas differ.

    Example:
        >>> import numpy as np
        >>> write_arrow({"x": np.zeros((9, 4)), "y": np.arange(9)}, "/tmp/nine.arrow")
    """
    schema, tables = _tables(data)
    rows: list[int] = []
    spans: list[list[tuple[int, int]]] = []
    with whole_file(path) as part:
        with pa.OSFile(part, "wb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                for table in _pieces(tables, rows_per_batch):
                    for batch in table.to_batches():
                        start = file.tell()
                        writer.write_batch(batch)
                        rows.append(batch.num_rows)
                        spans.append([(start, file.tell() - start)])
        add_table(part, ARROW, rows, spans)


def write_parquet(
    data: Any, path: str | Path, *, rows_per_group: int = ROWS_PER_GROUP, **options: Any
) -> None:
    """Write a Parquet file for ``ParquetDataset`` and ``ParquetStream``.

    Pages have checksums, as the format provides, and so has each column of each row group. The
    file appears under its name only when it is whole.

    Args:
        data: The same as for ``write_arrow``.
        path: The file to write, on a local disk.
        rows_per_group: The most rows in a row group: what is read at once.
        **options: Of ``pyarrow.parquet.ParquetWriter``, such as ``compression``.

    Raises:
        ValueError: There is nothing to write, or schemas differ.

    Example:
        >>> write_parquet({"text": ["a", "b"], "label": [0, 1]}, "/tmp/two.parquet")
    """
    schema, tables = _tables(data)
    with whole_file(path) as part:
        options = {"write_page_checksum": True, **options}
        with pq.ParquetWriter(part, schema, **options) as writer:
            for table in _pieces(tables, rows_per_group):
                writer.write_table(table, row_group_size=rows_per_group)
        metadata = pq.read_metadata(part)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        rows = [group.num_rows for group in groups]
        spans = [
            [column_span(group.column(number)) for number in range(group.num_columns)]
            for group in groups
        ]
        add_table(part, PARQUET, rows, spans)


def column_span(column: Any) -> tuple[int, int]:
    """Return offset and size in the file, in bytes, of a column of a row group."""
    offset = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        offset = min(offset, column.dictionary_page_offset)
    return offset, column.total_compressed_size


def _tables(data: Any) -> tuple[Any, Iterator[Any]]:
    """Return the schema, marked, and tables of it."""
    if isinstance(data, Mapping):
        data = pa.table({name: _array(value) for name, value in data.items()})
    if hasattr(data, "__arrow_c_stream__") and not isinstance(data, pa.RecordBatchReader):
        data = pa.table(data)  # of a DataFrame
    if isinstance(data, pa.Table | pa.RecordBatch):
        data = [data]
    if not isinstance(data, Iterable):
        raise TypeError(
            f"expected a pyarrow.Table, record batches, or a mapping of names to arrays, but got a "
            f"{type(data).__name__}"
        )
    pieces = iter(data)
    first = next(pieces, None)
    if first is None:
        raise ValueError("there is nothing to write: no table and no record batch")
    marked = first.schema.with_metadata({**(first.schema.metadata or {}), MARK: b"1"})

    def tables() -> Iterator[Any]:
        yield _table(first).replace_schema_metadata(marked.metadata)
        for piece in pieces:
            if not piece.schema.equals(first.schema):
                raise ValueError(
                    f"all pieces of a file have one schema, but got\n{piece.schema}\nafter\n"
                    f"{first.schema}"
                )
            yield _table(piece).replace_schema_metadata(marked.metadata)

    return marked, tables()


def _table(piece: Any) -> Any:
    return pa.Table.from_batches([piece]) if isinstance(piece, pa.RecordBatch) else piece


def _pieces(tables: Iterable[Any], rows: int) -> Iterator[Any]:
    """Yield the same rows in tables of ``rows`` rows, the last of what is left."""
    if rows < 1:
        raise ValueError(f"expected at least one row, but got {rows}")
    waiting: list[Any] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count >= rows:
            joined = pa.concat_tables(waiting)
            full = count - count % rows
            for start in range(0, full, rows):
                yield joined.slice(start, rows).combine_chunks()
            waiting, count = [joined.slice(full)], count - full
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if not isinstance(value, np.ndarray) or value.ndim <= 1:
        return pa.array(value)
    array = pa.array(np.ascontiguousarray(value).reshape(-1))
    for size in reversed(value.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array
