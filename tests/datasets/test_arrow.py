"""ArrowDataset: rows of mapped files and tables as samples and batches."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.fs
import pytest
import torch
import torch.utils.data
from torch.utils.data import ConcatDataset, Subset

import fastload
from fastload._memory.write import HEAP
from fastload.datasets import ArrowDataset, write_arrow
from fastload.datasets.gather import gatherer
from tests.contract.same import assert_same
from tests.datasets.tables import ROWS, assert_batch, mixed_table
from tests.start_methods import ANEW

TABLE = mixed_table()


def small_batches(path: Path) -> Any:
    write_arrow(TABLE, path / "x.arrow", rows_per_batch=10)
    return path / "x.arrow"


def by_another_writer(path: Path) -> Any:
    with pa.ipc.new_file(path / "x.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=100)
    return path / "x.arrow"


def without_footer(path: Path) -> Any:
    with pa.ipc.new_stream(path / "x.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=100)
    return path / "x.arrow"


def compressed(path: Path) -> Any:
    pa.feather.write_feather(TABLE, str(path / "x.feather"), compression="zstd", chunksize=100)
    return path / "x.feather"


def three_files(path: Path) -> Any:
    for number, start in enumerate((0, 400, 401)):
        end = (400, 401, ROWS)[number]
        write_arrow(TABLE.slice(start, end - start), path / f"{number}.arrow", rows_per_batch=64)
    return path


def remote(path: Path) -> Any:
    return small_batches(path)


def in_memory(path: Path) -> Any:
    return pa.concat_tables([TABLE.slice(0, 500), TABLE.slice(500)])


def sliced(path: Path) -> Any:
    return pa.concat_tables([mixed_table(7), TABLE]).slice(7)


def record_batch(path: Path) -> Any:
    return pa.concat_batches(TABLE.to_batches()).slice(0)


SOURCES = [
    *(small_batches, by_another_writer, without_footer, compressed, three_files),
    *(in_memory, sliced, record_batch),
]
ORDER = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(params=SOURCES, ids=lambda make: make.__name__)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return request.param(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_rows_asked_for(source: Any, workers: int) -> None:
    """Each type of column arrives as documented, from any kind of file, in any order."""
    dataset = ArrowDataset(source)
    loader = fastload.DataLoader(dataset, batch_size=100, sampler=ORDER, num_workers=workers)
    batches = list(loader)
    assert len(batches) == -(-ROWS // 100)
    for number, batch in enumerate(batches):
        assert_batch(batch, TABLE, ORDER[100 * number : 100 * (number + 1)])


PLAIN = [n for n in TABLE.column_names if n not in ("tokens", "long_tokens")]


def test_samples_are_what_the_batch_is_made_of(source: Any) -> None:
    """torch's own loader, and any collate function, sees one dict a row."""
    dataset = ArrowDataset(source, PLAIN)
    ours = list(fastload.DataLoader(dataset, batch_size=301))
    assert_same(ours, list(torch.utils.data.DataLoader(dataset, batch_size=301)))
    assert_same(
        torch.utils.data.default_collate([dataset[i] for i in range(9)]),
        next(iter(fastload.DataLoader(dataset, batch_size=9))),
    )


def test_lists_are_tensors_of_their_own_for_another_collate_function(source: Any) -> None:
    """A function that pads gets one tensor a row."""
    dataset = ArrowDataset(source, ["tokens"])
    pad = torch.nn.utils.rnn.pad_sequence
    loader = fastload.DataLoader(
        dataset,
        batch_size=7,
        collate_fn=lambda samples: pad([s["tokens"] for s in samples], batch_first=True),
    )
    assert next(iter(loader)).tolist() == [[n] * (n % 5) + [0] * (4 - n % 5) for n in range(7)]


@pytest.mark.parametrize("index", [ROWS, -ROWS - 1])
def test_index_out_of_range_is_an_index_error(source: Any, index: int) -> None:
    """Here and in the loader."""
    dataset = ArrowDataset(source)
    with pytest.raises(IndexError, match=f"{index} is out of range of {ROWS} rows"):
        dataset[index]
    with pytest.raises(IndexError, match=str(ROWS)):
        list(fastload.DataLoader(dataset, batch_sampler=[[0, index]]))


def test_negative_index_counts_from_the_end(source: Any) -> None:
    """As in a list."""
    dataset = ArrowDataset(source, ["int64", "text"])
    assert_same(dataset[-1], dataset[ROWS - 1])
    batch = next(iter(fastload.DataLoader(dataset, batch_sampler=[[-1, 0]])))
    assert batch["text"] == [f"row {ROWS - 1}", "row 0"]


def test_batches_are_private(source: Any) -> None:
    """Writing into a batch changes neither file nor table nor later batches."""
    dataset = ArrowDataset(source, ["int64", "bool", "tokens"])
    for batch in fastload.DataLoader(dataset, batch_size=100):
        batch["int64"].fill_(-1)
        batch["bool"].fill_(True)
        batch["tokens"].values().fill_(-1)
    assert_batch(
        next(iter(fastload.DataLoader(dataset, batch_size=100))),
        TABLE.select(["int64", "bool", "tokens"]),
        list(range(100)),
    )


@pytest.mark.parametrize("context", ANEW)
def test_workers_started_anew_open_the_files_again(tmp_path: Path, context: str) -> None:
    """The dataset travels as its paths."""
    dataset = ArrowDataset(three_files(tmp_path))
    assert len(pickle.dumps(dataset)) < 10_000
    loader = fastload.DataLoader(
        dataset, batch_size=600, num_workers=1, multiprocessing_context=context
    )
    for number, batch in enumerate(loader):
        assert_batch(batch, TABLE, list(range(ROWS))[600 * number : 600 * (number + 1)])


def test_pickled_table_keeps_its_rows() -> None:
    """A table in memory travels whole."""
    dataset = pickle.loads(pickle.dumps(ArrowDataset(TABLE)))
    assert_same(dataset[5], ArrowDataset(TABLE)[5])


def resident_bytes(path: str, rows: list[int], queue: Any) -> None:
    import psutil

    dataset = ArrowDataset(path, verify=False)
    before = psutil.Process().memory_info().rss
    dataset.__getitems__(rows)
    queue.put(psutil.Process().memory_info().rss - before)


def test_a_mapped_file_is_not_read_into_memory(tmp_path: Path) -> None:
    """Rows of a 64 MB file cost their own pages, nearly."""
    write_arrow({"x": np.zeros((64, 1 << 20), np.uint8)}, tmp_path / "x.arrow", rows_per_batch=1)
    context = multiprocessing.get_context("forkserver")
    queue = context.SimpleQueue()
    process = context.Process(
        target=resident_bytes, args=(str(tmp_path / "x.arrow"), [3, 40], queue)
    )
    process.start()
    grown = queue.get()
    process.join()
    process.close()
    queue.close()
    assert grown < 16 << 20


def double(sample: dict[str, Any]) -> dict[str, Any]:
    return {"twice": 2 * sample["int64"], "text": sample["text"].upper()}


def encode(columns: dict[str, Any]) -> tuple[Any, Any]:
    lengths = torch.tensor([len(text) for text in columns["text"]])
    return columns["int64"] + 1, {"lengths": lengths, "raw": columns["text"]}


@pytest.mark.parametrize("workers", [0, 1])
def test_transform_changes_each_sample(source: Any, workers: int) -> None:
    """The default collate then sees what it returned."""
    dataset = ArrowDataset(source, ["int64", "text"], transform=double)
    batch = next(iter(fastload.DataLoader(dataset, batch_size=3, num_workers=workers)))
    assert_same(batch, {"twice": torch.tensor([0, 2, 4]), "text": ["ROW 0", "ROW 1", "ROW 2"]})
    assert_same(dataset[2], {"twice": torch.tensor(4), "text": "ROW 2"})


@pytest.mark.parametrize("workers", [0, 1])
def test_batch_transform_sees_columns(source: Any, workers: int) -> None:
    """What it returns is the batch, and its rows are the samples."""
    dataset = ArrowDataset(source, ["int64", "text"], batch_transform=encode)
    batch = next(iter(fastload.DataLoader(dataset, batch_size=3, num_workers=workers)))
    lengths = torch.tensor([5, 5, 5])
    raw = ["row 0", "row 1", "row 2"]
    assert_same(batch, (torch.tensor([1, 2, 3]), {"lengths": lengths, "raw": raw}))
    assert_same(dataset[0], (torch.tensor(1), {"lengths": torch.tensor(5), "raw": "row 0"}))


def test_batch_transform_that_loses_rows_is_refused_as_samples() -> None:
    """A sample can't be told from the others then."""
    dataset = ArrowDataset(TABLE, ["int64"], batch_transform=lambda columns: columns["int64"][:1])
    with pytest.raises(ValueError, match="a column of 1 rows for a batch of 2"):
        dataset.__getitems__([0, 1])


class Negated(ArrowDataset):
    """A subclass with samples of its own."""

    def __getitem__(self, index):
        return -super().__getitem__(index)["int64"]


def test_a_subclass_is_asked_for_its_samples(source: Any) -> None:
    """Whatever it does in ``__getitem__`` counts."""
    batch = next(iter(fastload.DataLoader(Negated(source), batch_size=3)))
    assert batch.tolist() == [0, -1, -2]
    subset = Subset(Negated(source), [5, 6])
    assert next(iter(fastload.DataLoader(subset, batch_size=3))).tolist() == [-5, -6]


def test_subsets_and_chains_are_gathered(source: Any) -> None:
    """No sample is made for a subset of two datasets in a row."""
    names = ["float32", "vector", "text", "bool"]
    both = ConcatDataset([ArrowDataset(source, names), ArrowDataset(source, names)])
    rows = [3, ROWS + 4, 5, 2 * ROWS - 1]
    made = list(torch.utils.data.DataLoader(Subset(both, rows), batch_size=4))
    gather = gatherer(Subset(both, rows))
    assert gather is not None
    assert_same([gather([0, 1, 2, 3], HEAP)], made)
    assert_same(list(fastload.DataLoader(Subset(both, rows), batch_size=4, num_workers=1)), made)


WITH_NULLS = pa.table(
    {
        "n": pa.array([0, 1, None, 3], pa.int32()),
        "b": pa.array([True, None, False, True]),
        "t": pa.array(["a", "b", "c", None]),
        "l": pa.array([[1], None, [], [2, 3]], pa.list_(pa.int64())),
        "v": pa.array([[1, 2], [3, 4], None, [5, 6]], pa.list_(pa.int8(), 2)),
    }
)


@pytest.fixture(params=["table", "file", "many-batches"])
def nulls_source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "table":
        return WITH_NULLS
    write_arrow(
        WITH_NULLS, tmp_path / "x.arrow", rows_per_batch=4 if request.param == "file" else 1
    )
    return tmp_path / "x.arrow"


@pytest.mark.parametrize(("name", "row"), [("n", 2), ("b", 1), ("t", 3), ("l", 1), ("v", 2)])
def test_null_is_an_error_with_column_and_row(nulls_source: Any, name: str, row: int) -> None:
    """Unless the user said what it shall be."""
    dataset = ArrowDataset(nulls_source, [name])
    assert len(dataset.__getitems__([0])) == 1
    with pytest.raises(ValueError, match=f"column '{name}' is null in row {row}; pass fill="):
        dataset.__getitems__([0, row])
    with pytest.raises(ValueError, match=f"column '{name}' is null in row {row}"):
        list(fastload.DataLoader(dataset, batch_size=4))


def test_mask_says_where_nulls_are(nulls_source: Any) -> None:
    """A boolean column beside each; numbers are zero there, lists empty, objects None."""
    (batch,) = fastload.DataLoader(
        ArrowDataset(nulls_source, ["n", "b", "l", "v"], nulls="mask"), batch_size=4
    )
    assert batch["n"].tolist() == [0, 1, 0, 3]
    assert batch["n_valid"].tolist() == [True, True, False, True]
    assert batch["b"].tolist() == [True, False, False, True]
    assert [row.tolist() for row in batch["l"].unbind()] == [[1], [], [], [2, 3]]
    assert batch["l_valid"].tolist() == [True, False, True, True]
    assert batch["v"].tolist() == [[1, 2], [3, 4], [0, 0], [5, 6]]
    sample = ArrowDataset(nulls_source, ["t"], nulls="mask")[3]
    assert_same(sample, {"t": None, "t_valid": torch.tensor(False)})


def test_fill_takes_the_place_of_nulls(nulls_source: Any) -> None:
    """Of the columns it names."""
    dataset = ArrowDataset(nulls_source, ["n", "t", "v"], fill={"n": -1, "t": "none", "v": [8, 9]})
    (batch,) = fastload.DataLoader(dataset, batch_size=4)
    assert batch["n"].tolist() == [0, 1, -1, 3]
    assert batch["t"] == ["a", "b", "c", "none"]
    assert batch["v"].tolist() == [[1, 2], [3, 4], [8, 9], [5, 6]]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int8()), pa.list_(pa.int8(), 2), pa.large_list(pa.int8())]
)
def test_null_inside_a_list_is_an_error(kind: Any) -> None:
    """No tensor has a place for it."""
    table = pa.table({"l": pa.array([[1, 2], [3, None]], kind)})
    with pytest.raises(ValueError, match="column 'l' has a null inside the list of row 1"):
        ArrowDataset(table)[0]


def test_structs_are_dicts_of_columns_and_lists_of_strings_rows() -> None:
    """A struct is as with torch's loader; a list of strings is a row, however long it is."""
    table = pa.table({"s": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], "w": [["p", "q"], ["r", "s"]]})
    dataset = ArrowDataset(table)
    ours, torchs = (
        next(iter(kind(dataset, batch_size=2)))
        for kind in (fastload.DataLoader, torch.utils.data.DataLoader)
    )
    assert_same(ours["s"], torchs["s"])
    assert ours["s"]["a"].tolist() == [1, 2]
    assert ours["w"] == [["p", "q"], ["r", "s"]]


def test_dictionaries_are_decoded(tmp_path: Path) -> None:
    """A categorical column is a list of its values."""
    write_arrow(pa.table({"c": TABLE["class"].dictionary_encode()}), tmp_path / "x.arrow")
    batch = next(iter(fastload.DataLoader(ArrowDataset(tmp_path / "x.arrow"), batch_size=3)))
    assert batch == {"c": ["class 0", "class 1", "class 2"]}


def test_fixed_shape_tensors_keep_their_shape() -> None:
    """Arrow's own tensor type."""
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(values)})
    (batch,) = fastload.DataLoader(ArrowDataset(table), batch_size=4)
    assert_same(batch["x"], torch.from_numpy(values))


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_and_one_row(tmp_path: Path, rows: int) -> None:
    """Empty files and files of one row have a length and batches."""
    write_arrow(TABLE.slice(0, rows), tmp_path / "x.arrow")
    for source in (tmp_path / "x.arrow", TABLE.slice(0, rows)):
        dataset = ArrowDataset(source)
        assert len(dataset) == rows
        batches = list(fastload.DataLoader(dataset, batch_size=4))
        assert len(batches) == rows
        for batch in batches:
            assert_batch(batch, TABLE, [0])


def test_files_of_another_file_system_are_read(tmp_path: Path) -> None:
    """Anything that pyarrow can open."""
    three_files(tmp_path)
    filesystem = pa.fs.SubTreeFileSystem(str(tmp_path), pa.fs.LocalFileSystem())
    for source in ("", "*.arrow", ["0.arrow", "1.arrow", "2.arrow"]):
        dataset = ArrowDataset(source, filesystem=filesystem)
        assert len(dataset) == ROWS
        assert_same(dataset[700], ArrowDataset(TABLE)[700])


def test_paths_are_found_in_order(tmp_path: Path) -> None:
    """By path, pattern, folder or list; hidden files don't belong to a folder."""
    three_files(tmp_path)
    (tmp_path / ".hidden.arrow").write_bytes(b"")
    (tmp_path / "_SUCCESS.arrow").write_bytes(b"")
    (tmp_path / "readme.txt").write_text("")
    sources: list[Any] = [
        *(tmp_path, f"{tmp_path}/[0-9].arrow", str(tmp_path)),
        [tmp_path / f"{n}.arrow" for n in range(3)],
    ]
    for source in sources:
        dataset = ArrowDataset(source, ["int64", "text"])
        assert dataset[402]["text"] == "row 402"
    turned = ArrowDataset([tmp_path / "2.arrow", tmp_path / "0.arrow"], ["text"])
    assert turned[0]["text"] == "row 401"


def test_missing_files_are_named(tmp_path: Path) -> None:
    """A path that does not exist, a pattern that nothing fits, an empty folder."""
    with pytest.raises(FileNotFoundError, match=r"nowhere\.arrow"):
        ArrowDataset(tmp_path / "nowhere.arrow")
    for source in (tmp_path / "*.arrow", tmp_path):
        with pytest.raises(FileNotFoundError, match="no file matches"):
            ArrowDataset(source)


def test_differences_between_files_are_listed(tmp_path: Path) -> None:
    """All of them, with file and field, before anything is read."""
    write_arrow({"x": [1, 2], "y": [1.0, 2.0]}, tmp_path / "a.arrow")
    write_arrow({"x": [1.5, 2.5], "y": [1.0, 2.0]}, tmp_path / "b.arrow")
    write_arrow({"x": [1, 2], "z": ["", ""]}, tmp_path / "c.arrow")
    with pytest.raises(ValueError, match="have equal columns") as caught:
        ArrowDataset(tmp_path)
    text = str(caught.value)
    assert "b.arrow: column 'x' is double instead of int64" in text
    assert "c.arrow: column 'y' (double) is missing" in text
    assert "c.arrow: has a column 'z' more" in text
    assert len(ArrowDataset([tmp_path / "a.arrow", tmp_path / "c.arrow"], ["x"])) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["nope"]}, "has no column"),
        ({"columns": ["int8", "int8"]}, "named once each"),
        ({"nulls": "drop"}, "nulls is 'error' or 'mask'"),
        ({"fill": {"nope": 1}}, "fill names columns"),
        ({"fill": {"tokens": [0]}}, "fill has no value for lists"),
        ({"transform": double, "batch_transform": encode}, "exclude each other"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    """With what was expected."""
    with pytest.raises(ValueError, match=message):
        ArrowDataset(TABLE, **options)


def test_cache_of_compressed_batches_is_bounded(tmp_path: Path) -> None:
    """No more record batches are kept than the limit allows, but one."""
    dataset = ArrowDataset(compressed(tmp_path), cache_bytes=1)
    assert_same(dataset.__getitems__(ORDER)[5], ArrowDataset(TABLE)[ORDER[5]])
    assert len(dataset._cache._blocks) == 1
