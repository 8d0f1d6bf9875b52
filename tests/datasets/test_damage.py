"""A damaged file is an error that names it: never wrong data, never a crash."""

from __future__ import annotations

import collections
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fastload
from fastload.datasets import (
    ArrowDataset,
    ParquetDataset,
    ParquetStream,
    write_arrow,
    write_parquet,
)
from tests.datasets.damage import KINDS
from tests.datasets.tables import mixed_table

TABLE = mixed_table(400)
ROOT = Path(__file__).parents[2]


MANY = [(("arrow", "parquet"), 300), (("stream", "filtered"), 100)]


@pytest.mark.parametrize(
    ("kinds", "files"),
    [(KINDS, 12), *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in MANY)],
)
def test_no_damage_is_silent(kinds: tuple[str, ...], files: int) -> None:
    """Of many files with flipped bits or without their ends, read in another process."""
    command = [sys.executable, "-m", "tests.datasets.damage", str(files), *kinds]
    child = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    lines = [line.split(" ", 3) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"died of {lines[-1:]}: {child.stderr}"
    for kind in kinds:
        outcomes = collections.Counter(line[2] for line in lines if line[0] == kind)
        assert outcomes.keys() <= {"refused", "unchanged"}, [x for x in lines if x[2] != "refused"]
        assert outcomes.total() == files
        assert outcomes["refused"] > files * 0.9


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def test_arrow_error_says_where(tmp_path: Path) -> None:
    """Path, record batch and rows; rows of other batches are still read."""
    path = tmp_path / "x.arrow"
    write_arrow(TABLE, path, rows_per_batch=100)
    flip(path, path.stat().st_size * 3 // 8)
    dataset = ArrowDataset(path)
    (bad,) = {row // 100 for row in range(400) if not readable(dataset, row)}
    with pytest.raises(fastload.CorruptDataError, match=f"row group {bad} ") as caught:
        dataset[100 * bad + 5]
    error = caught.value
    assert (error.path, error.row_group) == (str(path), bad)
    assert error.rows == (100 * bad, 100 * bad + 100)


def readable(dataset: ArrowDataset, row: int) -> bool:
    try:
        dataset[row]
    except fastload.CorruptDataError:
        return False
    return True


@pytest.mark.parametrize("workers", [0, 1])
def test_parquet_error_says_where(tmp_path: Path, workers: int) -> None:
    """Path, row group, rows and column, also from a worker."""
    path = tmp_path / "x.parquet"
    write_parquet(TABLE, path, rows_per_group=100)
    column = pq.read_metadata(path).row_group(2).column(0)
    flip(path, column.data_page_offset + 2)
    loader = fastload.DataLoader(ParquetDataset(path), batch_size=50, num_workers=workers)
    with pytest.raises(fastload.CorruptDataError) as caught:
        list(loader)
    assert f"{path}, row group 2 (rows 200 to 299): column 'int8' is damaged" in str(caught.value)
    assert (caught.value.path, caught.value.row_group) == (str(path), 2)
    assert caught.value.rows == (200, 300)
    assert pickle.loads(pickle.dumps(caught.value)).rows == (200, 300)


@pytest.mark.parametrize("make", [ParquetDataset, ParquetStream])
def test_pages_of_others_are_checked_where_they_have_checksums(tmp_path: Path, make: type) -> None:
    """The format's own, which pyarrow writes if asked."""
    path = tmp_path / "x.parquet"
    table = pa.table({"x": list(range(1000))})
    pq.write_table(table, path, write_page_checksum=True, use_dictionary=False, compression="none")
    flip(path, 1000)
    with pytest.raises(fastload.CorruptDataError, match="row group 0"):
        list(fastload.DataLoader(make(path), batch_size=500))
    unchecked = fastload.DataLoader(make(path, verify=False), batch_size=1000)
    assert sum(1 for _ in unchecked) == 1


def test_files_of_others_are_validated(tmp_path: Path) -> None:
    """An Arrow file without checksums can't make a reader look outside of its memory."""
    path = tmp_path / "x.arrow"
    table = pa.table({"x": [[1], [2, 3]] * 50})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    content = path.read_bytes()
    offsets = bytes(table["x"].chunk(0).buffers()[1])[:404]
    at = content.index(offsets)
    path.write_bytes(content[: at + 40] + b"\xff\xff\xff\x7f" + content[at + 44 :])
    with pytest.raises(fastload.CorruptDataError, match="row group 0"):
        ArrowDataset(path)[0]


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"PAR1", b"PAR1PAR1PAR1", b"x" * 1000])
@pytest.mark.parametrize("make", [ArrowDataset, ParquetDataset, ParquetStream])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes, make: type) -> None:
    """Nothing, or something else."""
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(fastload.CorruptDataError, match=str(path)):
        make(path)


@pytest.mark.parametrize(
    ("write", "make"), [(write_arrow, ArrowDataset), (write_parquet, ParquetDataset)]
)
def test_a_file_without_its_checksums_is_refused(tmp_path: Path, write, make) -> None:
    """The schema says that there must be some."""
    path = tmp_path / "x"
    write(TABLE, path)
    content = path.read_bytes()
    assert content.count(b"FASTLOAD") == 1
    path.write_bytes(content.replace(b"FASTLOAD", b"fASTLOAD"))
    with pytest.raises(fastload.CorruptDataError, match="the table of checksums is damaged"):
        make(path)
    assert len(make(path, verify=False)) == 400


@pytest.mark.parametrize("write", [write_arrow, write_parquet])
def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, write) -> None:
    """An error while writing leaves what was there before."""
    path = tmp_path / "x"
    write({"x": [1, 2]}, path)
    before = path.read_bytes()

    def pieces():
        yield pa.table({"x": [3]})
        raise RuntimeError("the source has ended")

    with pytest.raises(RuntimeError, match="the source has ended"):
        write(pieces(), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_pieces_are_joined_to_the_size_asked_for(tmp_path: Path) -> None:
    """Small tables don't make small row groups."""
    path = tmp_path / "x.parquet"
    write_parquet((pa.table({"x": [n]}) for n in range(25)), path, rows_per_group=10)
    assert ParquetDataset(path).block_lengths == [10, 10, 5]
    write_arrow((pa.record_batch({"x": [n]}) for n in range(25)), path, rows_per_batch=10)
    assert [b.num_rows for b in pa.ipc.open_file(path).read_all().to_batches()] == [10, 10, 5]


@pytest.mark.parametrize("write", [write_arrow, write_parquet])
def test_wrong_data_is_refused(tmp_path: Path, write) -> None:
    """Nothing, something else, or pieces that don't go together."""
    with pytest.raises(ValueError, match="nothing to write"):
        write([], tmp_path / "x")
    with pytest.raises(TypeError, match="expected a pyarrow"):
        write(3, tmp_path / "x")
    with pytest.raises(ValueError, match="all pieces of a file have one schema"):
        write([pa.table({"x": [1]}), pa.table({"y": [1]})], tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [ParquetDataset, ParquetStream])
def test_a_string_of_others_that_is_none_is_damage(tmp_path: Path, kind: type) -> None:
    """Without checksums too, the error says which file and row group."""
    path = tmp_path / "x.parquet"
    table = pa.table({"t": ["aaaa", "bbbb", "cccc"], "l": [["x"], [], ["dddd"]]})
    for word in (b"cccc", b"dddd"):
        pq.write_table(
            table, path, compression="none", use_dictionary=False, write_statistics=False
        )
        content = path.read_bytes()
        path.write_bytes(content.replace(word, b"\xff\xff\xff\xff", 1))
        with pytest.raises(fastload.CorruptDataError) as caught:
            list(fastload.DataLoader(kind(path), batch_size=None))
        assert (caught.value.path, caught.value.row_group) == (str(path), 0)
