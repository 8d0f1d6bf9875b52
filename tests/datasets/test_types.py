"""Every Arrow type has the values of ``to_pylist``, or is refused when the dataset is opened."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import torch
import torch.utils.data
from torch.utils.data import ConcatDataset

import fastload
from fastload.datasets import (
    ArrowDataset,
    ParquetDataset,
    ParquetStream,
    write_arrow,
    write_parquet,
)
from fastload.errors import CorruptDataError
from tests.start_methods import METHODS

ROWS = 6
UTC = dt.timezone.utc
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float32", "float64")
DECIMALS = [decimal.Decimal(f"{i}.25") for i in range(ROWS)]
WORDS = [f"s{i}" for i in range(ROWS)]
LISTS = [[str(i)] * (i % 3) for i in range(ROWS)]
TIMES = np.arange(ROWS, dtype=np.int64) * 3_600_000_000_000


def runs(values: Any) -> Any:
    ends = pa.array([1, 4, ROWS], pa.int32())
    return pa.RunEndEncodedArray.from_arrays(ends, pa.array(*values))


def of_type(values: Any, kind: Any) -> Any:
    return pa.array(values, kind)


READ = {
    **{name: of_type(np.arange(ROWS), name) for name in (*NUMBERS, *FLOATS)},
    "half": pa.array(np.arange(ROWS, dtype=np.float16)),
    "bool": pa.array([True, False] * 3),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0] * 3, pa.int8())),
    "opaque": pa.ExtensionArray.from_storage(
        pa.opaque(pa.int64(), "t", "v"), pa.array(range(ROWS))
    ),
    "json": pa.array(['{"a": 1}'] * ROWS, pa.json_(pa.utf8())),
    "uuid": pa.array([bytes([i] * 16) for i in range(ROWS)], pa.uuid()),
    "list-of-uuid": pa.ListArray.from_arrays(
        list(range(ROWS + 1)), pa.array([bytes([i] * 16) for i in range(ROWS)], pa.uuid())
    ),
    "string": pa.array(WORDS),
    "large_string": of_type(WORDS, pa.large_string()),
    "string_view": of_type(WORDS, pa.string_view()),
    "binary": pa.array([b"x" * i for i in range(ROWS)]),
    "large_binary": of_type([b"x" * i for i in range(ROWS)], pa.large_binary()),
    "binary_view": of_type([b"x" * i for i in range(ROWS)], pa.binary_view()),
    "fixed_size_binary": of_type([b"ab%d" % i for i in range(ROWS)], pa.binary(3)),
    "dictionary": pa.array(["a", "b", "a", "c", "b", "a"]).dictionary_encode(),
    "dictionary-of-numbers": pa.array([5, 7, 5, 9, 7, 5]).dictionary_encode(),
    "dictionary-of-views": pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 0, 1, 0, 1], pa.int8()), of_type(["a", "b"], pa.string_view())
    ),
    "interval": pa.array([pa.MonthDayNano([1, 2, 3])] * ROWS),
    "struct": pa.array([{"a": i, "b": float(i), "c": str(i)} for i in range(ROWS)]),
    "struct-of-views": of_type(
        [{"a": w, "b": [w]} for w in WORDS],
        pa.struct({"a": pa.string_view(), "b": pa.list_(pa.string_view())}),
    ),
    "struct-in-struct": pa.array([{"a": {"b": [i] * (i % 3)}} for i in range(ROWS)]),
    "list": pa.array([[i] * (i % 3) for i in range(ROWS)]),
    "large_list": of_type([[i] * (i % 3) for i in range(ROWS)], pa.large_list(pa.int16())),
    "list_view": of_type([[i] * (i % 3) for i in range(ROWS)], pa.list_view(pa.int64())),
    "large_list_view": of_type([[i] * 2 for i in range(ROWS)], pa.large_list_view(pa.int64())),
    "list_view-of-strings": of_type(LISTS, pa.list_view(pa.string())),
    "fixed_size_list": of_type([[float(i)] * 3 for i in range(ROWS)], pa.list_(pa.float32(), 3)),
    "fixed_size_list-of-bools": of_type([[True, False]] * ROWS, pa.list_(pa.bool_(), 2)),
    "fixed_shape_tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(
        np.arange(ROWS * 6, dtype=np.float32).reshape(ROWS, 2, 3)
    ),
    "list-of-strings": pa.array(LISTS),
    "list-of-views": of_type(LISTS, pa.list_(pa.string_view())),
    "list-of-null-strings": pa.array([["a", None]] * ROWS),
    "list-of-bools": pa.array([[True] * i for i in range(ROWS)]),
    "list-of-lists": pa.array([[[i], [i, i]] for i in range(ROWS)]),
    "list-of-list-views": of_type(
        [[[i], [i, i]] for i in range(ROWS)], pa.list_(pa.list_view(pa.int64()))
    ),
    "list-of-structs": pa.array([[{"a": i, "b": str(i)}] * (i % 3) for i in range(ROWS)]),
    "map": of_type([[(w, i)] for i, w in enumerate(WORDS)], pa.map_(pa.string(), pa.int64())),
    "map-of-views": of_type([[(w, w)] for w in WORDS], pa.map_(pa.string(), pa.string_view())),
    "dense_union": pa.UnionArray.from_dense(
        pa.array([0, 1] * 3, pa.int8()),
        pa.array([0, 0, 1, 1, 2, 2], pa.int32()),
        [pa.array([1, 2, 3]), pa.array(["x", "y", "z"])],
    ),
    "sparse_union": pa.UnionArray.from_sparse(
        pa.array([0, 1] * 3, pa.int8()), [pa.array(range(ROWS)), pa.array(WORDS)]
    ),
    "run_end_encoded": runs(([1.0, 2.0, 3.0],)),
    "run_end_encoded-strings": runs((["a", "b", "c"],)),
    "run_end_encoded-views": runs((["a", "b", "c"], pa.string_view())),
    "run_end_encoded-lists": runs(([["a"], [], ["b", "c"]],)),
}
COUNTED = {
    **{f"timestamp-{u}": of_type(TIMES, pa.timestamp(u)) for u in ("s", "ms", "us", "ns")},
    "timestamp-with-zone": of_type(TIMES, pa.timestamp("us", "Europe/Berlin")),
    "time32": of_type(np.arange(ROWS, dtype=np.int32), pa.time32("ms")),
    "time64": of_type(np.arange(ROWS), pa.time64("us")),
    "duration": of_type(TIMES, pa.duration("ns")),
    "date32": of_type(np.arange(ROWS, dtype=np.int32), pa.date32()),
    "date64": of_type(np.arange(ROWS) * 86_400_000, pa.date64()),
}
FLOATING = {
    "decimal32": of_type(DECIMALS, pa.decimal32(8, 2)),
    "decimal64": of_type(DECIMALS, pa.decimal64(8, 2)),
    "decimal128": of_type(DECIMALS, pa.decimal128(8, 2)),
    "decimal256": of_type(DECIMALS, pa.decimal256(8, 2)),
    "list-of-decimals": of_type([[d] for d in DECIMALS], pa.list_(pa.decimal128(8, 2))),
    "list-of-lists-of-decimals": of_type(
        [[[d]] for d in DECIMALS], pa.list_(pa.list_(pa.decimal128(8, 2)))
    ),
    "struct-of-decimals": of_type(
        [{"d": d} for d in DECIMALS], pa.struct({"d": pa.decimal128(8, 2)})
    ),
    "dictionary-of-decimals": of_type(DECIMALS, pa.decimal128(8, 2)).dictionary_encode(),
}
REFUSED = {
    **FLOATING,
    "null": pa.nulls(ROWS),
    "permuted-tensor": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int64(), [2, 1], permutation=[1, 0]),
        of_type([[1, 2]] * ROWS, pa.list_(pa.int64(), 2)),
    ),
    "map-of-nanoseconds": of_type([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.timestamp("ns"))),
}


def table_of(column: Any) -> pa.Table:
    return pa.table({"c": column, "i": pa.array(range(ROWS))})


def rows_of(batch: Any) -> list[Any]:
    """A column as one Python object a row."""
    if isinstance(batch, torch.Tensor):
        return [row.tolist() for row in batch.unbind()]
    if isinstance(batch, dict):
        columns = [rows_of(values) for values in batch.values()]
        return [dict(zip(batch, row, strict=True)) for row in zip(*columns, strict=True)]
    return list(batch)


def in_memory(table: pa.Table, _: Path, **options: Any) -> Any:
    return fastload.DataLoader(ArrowDataset(table, **options), batch_size=4)


def two_chunks(table: pa.Table, _: Path, **options: Any) -> Any:
    parts = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    return fastload.DataLoader(ArrowDataset(parts, **options), batch_size=4)


def mapped(table: pa.Table, path: Path, **options: Any) -> Any:
    write_arrow(table, path / "x.arrow", rows_per_batch=5)
    return fastload.DataLoader(ArrowDataset(path / "x.arrow", **options), batch_size=4)


def by_index(table: pa.Table, path: Path, **options: Any) -> Any:
    write_parquet(table, path / "x.parquet", rows_per_group=5)
    return fastload.DataLoader(ParquetDataset(path, **options), batch_size=4)


def as_stream(table: pa.Table, path: Path, **options: Any) -> Any:
    write_parquet(table, path / "x.parquet", rows_per_group=5)
    return fastload.DataLoader(ParquetStream(path, batch_size=4, **options), batch_size=None)


def shuffled(table: pa.Table, path: Path, **options: Any) -> Any:
    write_parquet(table, path / "x.parquet", rows_per_group=5)
    stream = ParquetStream(path, batch_size=4, shuffle=True, **options)
    return fastload.DataLoader(stream, batch_size=None)


def chained(table: pa.Table, _: Path, **options: Any) -> Any:
    both = [ArrowDataset(part, **options) for part in (table.slice(0, 2), table.slice(2))]
    return fastload.DataLoader(ConcatDataset(both), batch_size=4)


READERS = [in_memory, two_chunks, mapped, by_index, as_stream, shuffled, chained]


def check(make: Any, column: Any, expected: list[Any], path: Path, **options: Any) -> None:
    try:
        loader = make(table_of(column), path, **options)
    except pa.ArrowNotImplementedError:  # pyarrow can't write it to Parquet, so nobody can read it
        assert make in {by_index, as_stream, shuffled}
        return
    batches = list(loader)
    assert len(batches) == 2
    found = [row for batch in batches for row in rows_of(batch["c"])]
    order = [number for batch in batches for number in batch["i"].tolist()]
    assert found == [expected[number] for number in order]
    assert type(batches[0]["c"]) is type(batches[1]["c"])


@pytest.mark.parametrize("make", READERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", READ)
def test_values_are_those_of_to_pylist(name: str, make: Any, tmp_path: Path) -> None:
    """Of every type, from every reader, whatever rows are in a batch."""
    expected = READ[name].to_pylist()
    if name == "fixed_shape_tensor":
        expected = READ[name].to_numpy_ndarray().tolist()
    if make in {as_stream, shuffled}:  # where a loader makes no batches, pairs become lists
        expected = torch.utils.data.default_convert(expected)
    check(make, READ[name], expected, tmp_path)


@pytest.mark.parametrize("make", READERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", COUNTED)
def test_times_are_the_integers_that_arrow_stores(name: str, make: Any, tmp_path: Path) -> None:
    """In the unit of the type; with a zone, since 1970 in UTC."""
    table = table_of(COUNTED[name])
    if make in {by_index, as_stream, shuffled}:
        pq.write_table(table, tmp_path / "seen.parquet")
        column = pq.read_table(tmp_path / "seen.parquet")["c"]  # Parquet has not all units
        (tmp_path / "seen.parquet").unlink()
    else:
        column = table["c"]
    width = pa.int32() if column.type.bit_width == 32 else pa.int64()
    check(make, COUNTED[name], column.cast(width).to_pylist(), tmp_path)


def floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: floats(inner) for key, inner in value.items()}
    return [floats(inner) for inner in value] if isinstance(value, list) else float(value)


@pytest.mark.parametrize("make", READERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", FLOATING)
def test_decimals_are_floats_if_asked_for(name: str, make: Any, tmp_path: Path) -> None:
    """At any depth."""
    column = FLOATING[name]
    check(make, column, floats(column.to_pylist()), tmp_path, decimals="float64")


@pytest.mark.parametrize("make", [in_memory, mapped, by_index, as_stream])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_at_once(name: str, make: Any, tmp_path: Path) -> None:
    """The error names column and type, and says what to do."""
    with pytest.raises(ValueError, match=r"column 'c' of type .* can't be read: .*(pass|cast)"):
        make(table_of(REFUSED[name]), tmp_path)


def test_nulls_of_structs_are_named_filled_or_masked() -> None:
    """A field by its path; a struct that is null has null fields."""
    column = pa.array([{"a": 1}, None, {"a": None}], pa.struct({"a": pa.int64()}))
    table = pa.table({"s": column})
    with pytest.raises(ValueError, match="column 's' is null in row 1"):
        ArrowDataset(table).__getitems__([0, 1])
    with pytest.raises(ValueError, match=r"column 's\.a' is null in row 2; pass fill=\{'s': "):
        ArrowDataset(table).__getitems__([0, 2])
    (batch,) = fastload.DataLoader(ArrowDataset(table, nulls="mask"), batch_size=3)
    assert batch["s"]["a"].tolist() == [1, 0, 0]
    assert batch["s"]["a_valid"].tolist() == [True, False, False]
    assert batch["s_valid"].tolist() == [True, False, True]
    (batch,) = fastload.DataLoader(ArrowDataset(table, fill={"s": {"a": 7}}), batch_size=3)
    assert batch["s"]["a"].tolist() == [1, 7, 7]


def test_a_polars_frame_is_taken_as_it_is() -> None:
    """Strings, lists, categories and all."""
    frame = pl.DataFrame({"n": [1, 2], "t": ["a", "b"], "l": [["x"], []]})
    (batch,) = fastload.DataLoader(ArrowDataset(frame), batch_size=2)
    assert batch["n"].tolist() == [1, 2]
    assert (batch["t"], batch["l"]) == (["a", "b"], [["x"], []])


@pytest.mark.parametrize("context", METHODS)
@pytest.mark.parametrize("kind", [ParquetDataset, ParquetStream, ArrowDataset])
def test_folders_are_columns(kind: Any, context: str, tmp_path: Path) -> None:
    """Integers if all are, else strings; by every way of starting workers."""
    for day, k in (("2025-01-01", 0), ("2025-01-02", 1)):
        folder = tmp_path / f"day={day}" / f"k={k}"
        folder.mkdir(parents=True)
        write = write_arrow if kind is ArrowDataset else write_parquet
        suffix = "arrow" if kind is ArrowDataset else "parquet"
        write({"x": [10 * k, 10 * k + 1]}, folder / f"a.{suffix}")
    sizes = {"batch_size": 3} if kind is not ParquetStream else {"batch_size": None}
    dataset = kind(tmp_path, batch_size=3) if kind is ParquetStream else kind(tmp_path)
    loader = fastload.DataLoader(dataset, num_workers=1, multiprocessing_context=context, **sizes)
    rows = [row for batch in loader for row in rows_of(batch)]
    assert rows == [
        {"x": 10 * k + i, "day": f"2025-01-0{k + 1}", "k": k} for k in (0, 1) for i in (0, 1)
    ]


def test_filters_may_name_folders(tmp_path: Path) -> None:
    """Other folders are not read."""
    for k in (0, 1):
        (tmp_path / f"k={k}").mkdir()
        write_parquet({"x": [k]}, tmp_path / f"k={k}" / "a.parquet")
    (batch,) = ParquetStream(tmp_path, batch_size=3, filters=[("k", "=", 1)])
    assert (batch["x"].tolist(), batch["k"].tolist()) == ([1], [1])


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json.gz", "x.orc"])
@pytest.mark.parametrize("kind", [ParquetDataset, ParquetStream, ArrowDataset])
def test_formats_without_a_reader_are_said_to_have_none(
    kind: Any, name: str, tmp_path: Path
) -> None:
    """They are not called damaged."""
    (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not supported yet"):
        kind(tmp_path / name)


def test_a_file_system_of_fsspec_is_read() -> None:
    """By object and by URI."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    with memory.open("/rows/a.parquet", "wb") as file:
        pq.write_table(pa.table({"x": [1, 2, 3]}), file)
    for source, filesystem in (("/rows", memory), ("memory://rows/a.parquet", None)):
        dataset = ParquetDataset(source, filesystem=filesystem)
        (batch,) = fastload.DataLoader(dataset, batch_size=3, num_workers=1)
        assert batch["x"].tolist() == [1, 2, 3]
    with pytest.raises(TypeError, match="filesystem is a pyarrow"):
        ParquetDataset("/rows", filesystem="memory")
    memory.rm("/rows", recursive=True)


@pytest.mark.parametrize("kind", [ParquetDataset, ArrowDataset])
def test_a_damaged_file_without_our_checksums_is_named(kind: Any, tmp_path: Path) -> None:
    """Its path is in the error."""
    path = tmp_path / "x.bin"
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(CorruptDataError) as caught:
        kind(path)
    assert caught.value.path == str(path)
