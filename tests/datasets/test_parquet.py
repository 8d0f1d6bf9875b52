"""ParquetDataset: rows by index from row groups that are read whole."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import torch
import torch.utils.data

import fastload
from fastload.datasets import ParquetDataset, write_parquet
from tests.contract.same import assert_same
from tests.datasets.tables import ROWS, assert_batch, mixed_table
from tests.start_methods import ANEW

TABLE = mixed_table()


def ours(path: Path) -> Path:
    write_parquet(TABLE, path / "x.parquet", rows_per_group=100)
    return path / "x.parquet"


def by_another_writer(path: Path) -> Path:
    pq.write_table(TABLE, path / "x.parquet", row_group_size=100, compression="zstd")
    return path / "x.parquet"


def three_files(path: Path) -> Path:
    for number, (start, end) in enumerate(((0, 400), (400, 401), (401, ROWS))):
        write_parquet(
            TABLE.slice(start, end - start), path / f"{number}.parquet", rows_per_group=64
        )
    return path


@pytest.fixture(params=[ours, by_another_writer, three_files], ids=lambda make: make.__name__)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return request.param(tmp_path)


ORDER = random.Random(1).sample(range(ROWS), ROWS)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_rows_asked_for(source: Path, workers: int) -> None:
    """Each type of column arrives as documented, in any order, from several row groups."""
    dataset = ParquetDataset(source)
    loader = fastload.DataLoader(dataset, batch_size=300, sampler=ORDER, num_workers=workers)
    for number, batch in enumerate(loader):
        assert_batch(batch, TABLE, ORDER[300 * number : 300 * (number + 1)])


def test_samples_are_what_the_batch_is_made_of(source: Path) -> None:
    """torch's own loader sees one dict a row."""
    names = [name for name in TABLE.column_names if "tokens" not in name]
    dataset = ParquetDataset(source, names)
    expected = list(torch.utils.data.DataLoader(dataset, batch_size=301))
    assert_same(list(fastload.DataLoader(dataset, batch_size=301)), expected)
    assert_same(dataset[-1], dataset[ROWS - 1])
    with pytest.raises(IndexError):
        dataset[ROWS]


def test_blocks_are_the_row_groups(tmp_path: Path) -> None:
    """In the order of rows, over all files, as a sampler of blocks wants them."""
    dataset = ParquetDataset(three_files(tmp_path))
    assert dataset.block_lengths == [64] * 6 + [16, 1] + [64] * 9 + [26]
    assert sum(dataset.block_lengths) == len(dataset) == ROWS


def test_row_groups_are_kept_within_the_limit(tmp_path: Path) -> None:
    """The least recently used go first; one is kept at least."""
    path = ours(tmp_path)
    group = ParquetDataset(path, cache_bytes=1)
    for row in (0, 1, 150, 250, 0):
        group[row]
    assert group._reads == 4
    assert len(group._cache._blocks) == 1
    size = next(iter(group._cache._blocks.values())).size_bytes
    several = ParquetDataset(path, cache_bytes=7 * size // 2)
    for row in (0, 150, 250, 0, 350, 0, 150):
        several[row]
    assert several._reads == 5
    assert several._cache._size_bytes <= 7 * size // 2


def test_an_order_that_defeats_the_cache_is_warned_of(tmp_path: Path) -> None:
    """Once, with what to do."""
    dataset = ParquetDataset(ours(tmp_path), ["int8"], cache_bytes=1)
    with pytest.warns(UserWarning, match="BlockShuffleSampler") as caught:
        [dataset[row] for row in [0, 500] * 200]
    assert len(caught) == 1


@pytest.mark.parametrize("context", ANEW)
def test_workers_started_anew_open_the_files_again(tmp_path: Path, context: str) -> None:
    """The dataset travels as its paths, without footers and row groups."""
    dataset = ParquetDataset(three_files(tmp_path))
    dataset[0]
    assert len(pickle.dumps(dataset)) < 10_000
    loader = fastload.DataLoader(
        dataset, batch_size=600, num_workers=1, multiprocessing_context=context
    )
    for number, batch in enumerate(loader):
        assert_batch(batch, TABLE, list(range(ROWS))[600 * number : 600 * (number + 1)])


def test_what_was_read_before_a_fork_can_be_read_after(source: Path) -> None:
    """The parent's row groups and footers serve its workers."""
    dataset = ParquetDataset(source)
    dataset[0]
    loader = fastload.DataLoader(dataset, batch_size=600, num_workers=2)
    assert_batch(next(iter(loader)), TABLE, list(range(600)))
    loader.close()


def test_files_of_another_file_system_are_read(tmp_path: Path) -> None:
    """Anything that pyarrow can open."""
    three_files(tmp_path)
    filesystem = pa.fs.SubTreeFileSystem(str(tmp_path), pa.fs.LocalFileSystem())
    for source in ("", "?.parquet", "**.parquet", ["0.parquet", "1.parquet", "2.parquet"]):
        dataset = ParquetDataset(source, filesystem=filesystem)
        assert len(dataset) == ROWS
        assert_batch({"text": [dataset[700]["text"]]}, TABLE.select(["text"]), [700])


def test_only_the_columns_asked_for_are_touched(tmp_path: Path) -> None:
    """Damage in another column is no matter."""
    path = ours(tmp_path)
    column = pq.read_metadata(path).row_group(0).column(TABLE.column_names.index("text"))
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + 40] ^= 1
    path.write_bytes(content)
    assert ParquetDataset(path, ["int8"])[5]["int8"].item() == 5
    with pytest.raises(fastload.CorruptDataError, match="column 'text' is damaged"):
        ParquetDataset(path, ["text"])[5]


def test_null_is_an_error_with_column_and_row(tmp_path: Path) -> None:
    """The row of the dataset, over all files."""
    write_parquet({"x": [1, 2, 3]}, tmp_path / "a.parquet")
    write_parquet(pa.table({"x": pa.array([4, None], pa.int64())}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="column 'x' is null in row 4"):
        ParquetDataset(tmp_path)[4]
    (batch,) = fastload.DataLoader(ParquetDataset(tmp_path, fill={"x": 9}), batch_size=5)
    assert batch["x"].tolist() == [1, 2, 3, 4, 9]


def test_differences_between_files_are_listed(tmp_path: Path) -> None:
    """With file and field, before a row is read."""
    write_parquet({"x": [1, 2]}, tmp_path / "a.parquet")
    write_parquet({"x": ["1", "2"]}, tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: column 'x' is string instead of int64"):
        ParquetDataset(tmp_path)


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_and_one_row(tmp_path: Path, rows: int) -> None:
    """Empty files and files of one row have a length and batches."""
    write_parquet(TABLE.slice(0, rows), tmp_path / "x.parquet")
    dataset = ParquetDataset(tmp_path / "x.parquet")
    batches: list[Any] = list(fastload.DataLoader(dataset, batch_size=4))
    assert (len(dataset), len(batches)) == (rows, rows)


def test_what_we_write_others_read(tmp_path: Path) -> None:
    """The table of checksums is in nobody's way."""
    assert pq.read_table(ours(tmp_path)).equals(TABLE)
