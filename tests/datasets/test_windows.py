"""Windows of a stream: rows in order, cut into batches, named in errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
import torch

from fastload._memory.write import HEAP
from fastload.datasets import ParquetStream, write_parquet
from fastload.datasets.arrow_buffers import BufferRows
from fastload.datasets.row_blocks import TableBlock, in_one_piece
from fastload.datasets.tabular import ColumnOptions
from fastload.datasets.windows import Cutter, Piece, RowWindow, read, shuffled
from tests.datasets.tables import assert_batch, mixed_table

TABLE = mixed_table(300)
TABLE = TABLE.append_column("class number", TABLE["class"].dictionary_encode())


def window(start: int, end: int) -> RowWindow:
    return RowWindow(TABLE.slice(start, end - start).combine_chunks(), [range(start, end)])


def cut(sizes: list[int], count: int, *, spans_windows: bool) -> tuple[list[list[int]], list[int]]:
    """Numbers of the rows of each batch, and of those that are left."""
    cutter = Cutter(count, spans_windows=spans_windows)
    found, start = [], 0
    for size in sizes:
        for pieces, end in cutter.cut(window(start, start + size), 0):
            found.append(numbers(pieces))
            assert found[-1][-1] == start + end - 1
        start += size
    return found, numbers(cutter.waiting)


def numbers(pieces: list[Piece]) -> list[int]:
    return [part.number(row) for part, first, rows in pieces for row in range(first, first + rows)]


@pytest.mark.parametrize("sizes", [[], [0], [7], [10, 0, 3], [1] * 25, [25], [4, 20, 1], [9, 1]])
@pytest.mark.parametrize("count", [1, 3, 10, 100])
def test_batches_are_full_whatever_the_windows(sizes: list[int], count: int) -> None:
    """Rows that don't fill one wait for the next window; none is lost."""
    batches, rest = cut(sizes, count, spans_windows=True)
    assert all(len(batch) == count for batch in batches)
    assert len(rest) < count
    assert [row for batch in [*batches, rest] for row in batch] == list(range(sum(sizes)))


def test_what_need_not_be_full_ends_with_its_window() -> None:
    """Samples are handed out one by one anyway."""
    assert cut([3, 4], 3, spans_windows=False) == ([[0, 1, 2], [3, 4, 5], [6]], [])


def test_rows_that_wait_do_not_keep_their_window() -> None:
    """They are copied: a window may be hundreds of megabytes."""
    cutter = Cutter(200, spans_windows=True)
    whole = window(0, 300)
    assert len(list(cutter.cut(whole, 0))) == 1
    (piece,) = cutter.waiting
    assert piece.window.rows == 100
    sizes = [each._table.get_total_buffer_size() for each in (whole, piece.window)]
    assert sizes[1] < sizes[0] / 2
    assert numbers([piece]) == list(range(200, 300))


@pytest.mark.parametrize("bounds", [[(0, 300)], [(0, 5), (5, 6), (6, 300)], [(3, 3), (3, 9)]])
def test_pieces_are_read_as_one(bounds: list[tuple[int, int]]) -> None:
    """Of every kind of column, from one window or several."""
    form = ColumnOptions(TABLE.schema, "error", None, None, None)
    pieces = [Piece(window(start, end), 0, end - start) for start, end in bounds]
    batch = form.batch(read(pieces, form, HEAP), HEAP)
    assert_batch(batch, TABLE, list(range(bounds[0][0], bounds[-1][1])))


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize(("first", "count"), [(0, 0), (0, 1), (1, 8), (5, 100), (299, 1), (0, 300)])
def test_a_slice_is_what_those_rows_are(first: int, count: int, nulls: bool) -> None:
    """Column by column, from tables that begin anywhere, with nulls and without."""
    table = pa.concat_tables([TABLE.slice(0, 3), TABLE]).combine_chunks().slice(3)
    if nulls:
        keep = pa.array([number % 7 > 0 for number in range(300)])
        table = pa.table(
            [pa.compute.if_else(keep, each, pa.scalar(None, each.type)) for each in table.columns],
            table.column_names,
        )
    for name, column in TableBlock(table.combine_chunks(), "a table").columns.items():
        rows = BufferRows(np.arange(first, first + count), 0)
        valid, expected_valid = column.valid_slice(first, count), column.valid(rows)
        assert plain(valid) == plain(expected_valid), name
        assert (valid is not None) == (
            nulls
            and count > 0
            and first < 300
            and any(number % 7 == 0 for number in range(first, first + count))
        ), name
        got, expected = column.slice(first, count, HEAP), column.take(rows, HEAP)
        if isinstance(expected, torch.Tensor):
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape), name
        assert plain(got) == plain(expected), name


def plain(values: Any) -> Any:
    if isinstance(values, tuple):
        return [plain(each) for each in values]
    return values.tolist() if hasattr(values, "tolist") else values


def test_shuffling_moves_rows_of_every_kind() -> None:
    """As the order says, over all tables; those are let go."""
    order = np.random.default_rng(0).permutation(300)
    tables = [TABLE.slice(0, 100), TABLE.slice(100, 0), TABLE.slice(100)]
    moved = RowWindow(shuffled(tables, order), [range(100), range(100, 300)], order)
    assert tables == []
    form = ColumnOptions(TABLE.schema, "error", None, None, None)
    piece = Piece(moved, 40, 100)
    assert_batch(form.batch(read([piece], form, HEAP), HEAP), TABLE, order[40:140].tolist())
    assert numbers([piece]) == order[40:140].tolist()
    assert numbers([Piece(moved.rest(250), 0, 50)]) == order[250:].tolist()


@pytest.mark.parametrize(
    ("values", "wide"),
    [
        (["a", None, "bc"], pa.large_string()),
        ([b"a", None, b"bc"], pa.large_binary()),
        ([[1], None, [2, 3]], pa.large_list(pa.int64())),
        ([1, None, 3], pa.int64()),
    ],
)
def test_chunks_too_large_for_32_bits_get_wider_offsets(values: list[Any], wide: Any) -> None:
    """So no row is left out of a column of more than 2 GiB."""
    column = pa.chunked_array([pa.array(values), pa.array(values)])
    joined = in_one_piece(column, most_bytes=3)
    assert (joined.type, joined.to_pylist()) == (wide, values * 2)
    assert in_one_piece(column).type == column.type


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [7, 64, 1000])
def test_a_null_is_named_by_its_row_wherever_it_lies(
    tmp_path: Path, shuffle: bool, batch_size: int
) -> None:
    """At the end of a window, in a batch that spans windows, in the first row."""
    for row in (0, 19, 20, 21, 63, 130, 199):
        values = [None if number == row else number for number in range(200)]
        path = tmp_path / f"{row}.parquet"
        write_parquet(pa.table({"x": values}), path, rows_per_group=20)
        made = ParquetStream(path, batch_size=batch_size, shuffle=shuffle, buffer_rows=50)
        with pytest.raises(ValueError, match=f"column 'x' is null in row {row};"):
            list(made)
