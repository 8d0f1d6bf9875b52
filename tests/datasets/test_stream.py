"""ParquetStream: every row once, by one reader, in an order that can be drawn again."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import torch
import torch.utils.data

import fastload
from fastload.datasets import ParquetStream, write_parquet
from tests.contract.same import assert_same
from tests.datasets.tables import ROWS, assert_batch, mixed_table
from tests.start_methods import ANEW

TABLE = mixed_table()
GROUP = 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of 7, 1 and 10 row groups."""
    for number, (start, end) in enumerate(((0, 400), (400, 401), (401, ROWS))):
        part = TABLE.slice(start, end - start)
        write_parquet(part, tmp_path / f"{number}.parquet", rows_per_group=GROUP)
    return tmp_path


def stream(folder: Path, **options: Any) -> ParquetStream:
    return ParquetStream(folder, **{"columns": ["int64", "text"], **options})


def texts(batches: Any) -> list[str]:
    found: list[str] = []
    for batch in batches:
        found += [batch["text"]] if isinstance(batch["text"], str) else batch["text"]
    return found


ALL = [f"row {n}" for n in range(ROWS)]


def test_batches_hold_all_rows_in_order(folder: Path) -> None:
    """Batches span row groups and files; the last one may be short."""
    batches = list(ParquetStream(folder, batch_size=100))
    assert [len(batch["text"]) for batch in batches] == [100] * 10 + [3]
    for number, batch in enumerate(batches):
        rows = list(range(100 * number, min(100 * (number + 1), ROWS)))
        assert_batch(batch, TABLE, rows)


def test_samples_are_the_rows(folder: Path) -> None:
    """Without a batch size, one dict a row, for any loader."""
    assert texts(stream(folder)) == ALL
    ours = list(fastload.DataLoader(stream(folder), batch_size=300))
    assert_same(ours, list(torch.utils.data.DataLoader(stream(folder), batch_size=300)))


@pytest.mark.parametrize("batch_size", [1, 63, 64, 65, 500, 5_000])
def test_any_batch_size_fits_any_row_group(folder: Path, batch_size: int) -> None:
    """Smaller, equal and larger ones; len says how many."""
    for shuffle in (False, True):
        made = stream(folder, batch_size=batch_size, shuffle=shuffle, buffer_rows=100)
        batches = list(made)
        assert len(batches) == len(made) == -(-ROWS // batch_size)
        assert sorted(texts(batches)) == sorted(ALL)
        full = stream(folder, batch_size=batch_size, drop_last=True)
        assert len(list(full)) == len(full) == ROWS // batch_size


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 40])
def test_every_row_is_read_by_one_reader(folder: Path, world_size: int, workers: int) -> None:
    """No overlap and no gap, with any number of ranks and workers; lengths are exact."""
    found = []
    for rank in range(world_size if world_size < 40 else 2):
        made = stream(folder, batch_size=50, shuffle=True, rank=rank, world_size=world_size)
        loader = fastload.DataLoader(made, batch_size=None, num_workers=workers)
        batches = list(loader)
        assert len(batches) == len(loader) == made.count_batches(workers)
        found += texts(batches)
    assert len(found) == len(set(found))
    if world_size < 40:
        assert sorted(found) == sorted(ALL)


def test_rows_without_columns_are_counted(folder: Path) -> None:
    """As many empty samples, or batches, as there would be."""
    for shuffle in (False, True):
        assert len(list(stream(folder, columns=[], batch_size=100, shuffle=shuffle))) == 11
        assert list(stream(folder, columns=[], shuffle=shuffle)) == [{}] * ROWS


def test_length_counts_samples_too(folder: Path) -> None:
    """Of a loader that makes the batches, each worker its own."""
    loader = fastload.DataLoader(stream(folder), batch_size=100, num_workers=2)
    assert len(loader) == len(list(loader))
    assert len(stream(folder)) == ROWS


@pytest.mark.filterwarnings("error")
def test_torchs_loader_reads_it_too(folder: Path) -> None:
    """Nothing of it needs fastload's loader."""
    loader = torch.utils.data.DataLoader(
        stream(folder, batch_size=100), batch_size=None, num_workers=2
    )
    assert sorted(texts(loader)) == sorted(ALL)


def test_order_depends_on_seed_and_epoch_alone(folder: Path) -> None:
    """The same again with the same; another with another; never the files' own."""
    made = stream(folder, shuffle=True, seed=1, buffer_rows=200)
    first, again = texts(made), texts(made)
    assert first == again != ALL
    assert texts(stream(folder, shuffle=True, seed=2, buffer_rows=200)) != first
    made.set_epoch(1)
    second = texts(made)
    assert second != first
    assert sorted(second) == sorted(ALL)
    made.set_epoch(0)
    assert texts(made) == first


def test_shuffling_mixes_row_groups(folder: Path) -> None:
    """The first rows come from all groups in the buffer, whose order is random too."""
    order = [int(text[4:]) for text in texts(stream(folder, shuffle=True, buffer_rows=300))]
    assert len({row // GROUP for row in order[:100]}) >= 4
    starts = [stream(folder, shuffle=True, buffer_rows=1, seed=seed) for seed in range(20)]
    assert len({int(texts(each)[0][4:]) // GROUP for each in starts}) > 5


@pytest.mark.parametrize(
    ("context", "persistent"),
    [
        *(("fork", False), ("fork", True), ("forkserver", True)),
        pytest.param("spawn", True, marks=pytest.mark.exhaustive),
    ],
)
def test_workers_see_the_epoch(folder: Path, context: str, persistent: bool) -> None:
    """Also persistent ones, which were started in another."""
    made = stream(folder, shuffle=True, batch_size=10)
    with fastload.DataLoader(
        made,
        batch_size=None,
        num_workers=2,
        persistent_workers=persistent,
        multiprocessing_context=context,
    ) as loader:
        epochs = []
        for epoch in (0, 1, 0):
            made.set_epoch(epoch)
            epochs.append(texts(loader))
    assert epochs[0] == epochs[2] != epochs[1]
    assert sorted(epochs[1]) == sorted(ALL)


def test_torchs_forked_workers_see_the_epoch(folder: Path) -> None:
    """Nobody tells them; the number lies in memory that they share."""
    made = stream(folder, shuffle=True, batch_size=10)
    loader = torch.utils.data.DataLoader(
        made, batch_size=None, num_workers=1, persistent_workers=True
    )
    first = texts(loader)
    made.set_epoch(1)
    assert texts(loader) == texts(made) != first


def test_workers_leave_the_epoch_of_others_alone(folder: Path) -> None:
    """An epoch that is set while the one before is read is for the next iterator."""
    made = stream(folder, shuffle=True, batch_size=10)
    orders = []
    for epoch in range(4):
        made.set_epoch(epoch)
        orders.append(texts(made))
    with fastload.DataLoader(
        made, batch_size=None, num_workers=1, persistent_workers=True
    ) as loader:
        for epoch in range(3):
            made.set_epoch(epoch)
            iterator = iter(loader)
            made.set_epoch(epoch + 1)
            assert texts(iterator) == orders[epoch]
            assert made.epoch == epoch + 1


@pytest.mark.parametrize("context", ANEW)
def test_workers_started_anew_read_their_share(folder: Path, context: str) -> None:
    """The stream travels as its paths."""
    made = stream(folder, shuffle=True, batch_size=10, seed=3)
    made.set_epoch(5)
    assert len(pickle.dumps(made)) < 10_000
    loader = fastload.DataLoader(
        made, batch_size=None, num_workers=1, multiprocessing_context=context
    )
    assert texts(loader) == texts(made)


FILTERS = [
    (pc.field("int64") < 30, lambda n: n % 100 < 30),
    (pc.field("bool"), lambda n: n % 3 == 0),
    ([("text", "==", "row 444")], lambda n: n == 444),
    ([("time", ">", 900_000)], None),
    (pc.field("int64") > 1_000, lambda n: False),
]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_filters_choose_rows(folder: Path, number: int, workers: int) -> None:
    """Also by columns that are not read; there is no length then."""
    filters, holds = FILTERS[number]
    made = stream(folder, batch_size=20, filters=filters, shuffle=True, buffer_rows=100)
    loader = fastload.DataLoader(made, batch_size=None, num_workers=workers)
    expected = [f"row {n}" for n in range(ROWS) if holds(n)]
    assert sorted(texts(loader)) == sorted(expected)
    with pytest.raises(TypeError, match="no length"):
        len(made)


@pytest.mark.parametrize("options", [{}, {"shuffle": True, "buffer_rows": 150}])
@pytest.mark.parametrize("batch_size", [None, 37, 100])
@pytest.mark.parametrize("filtered", [False, True])
def test_a_stream_goes_on_where_its_state_was_taken(
    folder: Path, options: dict[str, Any], batch_size: int | None, filtered: bool
) -> None:
    """At every step: what was delivered and the rest are the whole epoch, without reading twice."""
    if filtered:
        options = {**options, "filters": pc.field("int64") < 90}
    made = stream(folder, batch_size=batch_size, **options)
    made.set_epoch(2)
    whole = texts(made)
    steps = 0
    iterator = iter(made)
    delivered: list[str] = []
    every = 3 if batch_size else 131
    for item in iterator:
        delivered += texts([item])
        steps += 1
        if steps % every:
            continue
        state = pickle.loads(pickle.dumps(made.state_dict()))
        other = stream(folder, batch_size=batch_size, **options)
        other.load_state_dict(state)
        assert delivered + texts(other) == whole
        assert texts(other)[:5] != [] or not whole


def test_after_its_end_a_stream_begins_anew(folder: Path) -> None:
    """A state taken then is that of the next epoch's beginning."""
    made = stream(folder, batch_size=100)
    assert texts(made) == ALL
    state = made.state_dict()
    other = stream(folder, batch_size=100)
    other.load_state_dict(state)
    assert texts(other) == ALL


def test_the_state_of_an_end_fits_any_reader(folder: Path) -> None:
    """There is nothing to go on with, so the epoch is that of set_epoch and ranks may differ."""
    source = stream(folder, shuffle=True, rank=0, world_size=1)
    texts(source)
    after = stream(folder, shuffle=True, rank=1, world_size=2)
    after.set_epoch(1)
    expected = texts(after)
    after.load_state_dict(source.state_dict())
    assert texts(after) == expected


def test_the_state_of_other_filters_is_refused(folder: Path) -> None:
    """Its rows are counted among those that were chosen."""
    source = stream(folder, filters=[("int64", "<", -1)])
    with pytest.raises(ValueError, match="another stream"):
        stream(folder, filters=[("int64", "<", -2)]).load_state_dict(source.state_dict())


def test_a_loader_without_workers_resumes_the_stream(folder: Path) -> None:
    """By the stream's own state: nothing is read again."""
    loader = fastload.DataLoader(stream(folder, batch_size=50, shuffle=True), batch_size=None)
    whole = texts(loader)
    iterator = iter(loader)
    delivered = texts(next(iterator) for _ in range(7))
    state = loader.state_dict()
    other = fastload.DataLoader(stream(folder, batch_size=50, shuffle=True), batch_size=None)
    other.load_state_dict(state)
    assert delivered + texts(other) == whole


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_loader_resumes_the_stream(folder: Path, workers: int) -> None:
    """It asks each worker's copy for its state."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> Any:
        made = stream(folder, batch_size=50, shuffle=True)
        return stateful.StatefulDataLoader(made, batch_size=None, num_workers=workers)

    first = loader()
    whole = texts(first)
    iterator = iter(first)
    delivered = texts(next(iterator) for _ in range(7))
    state = first.state_dict()
    del iterator
    other = loader()
    other.load_state_dict(state)
    assert delivered + texts(other) == whole


def test_a_state_of_something_else_is_refused(folder: Path) -> None:
    """Other files, another order, another number of readers."""
    state = stream(folder, shuffle=True, seed=1).state_dict()
    for other in (stream(folder), stream(folder, shuffle=True, seed=2)):
        with pytest.raises(ValueError, match="of another stream"):
            other.load_state_dict(state)
    ranked = stream(folder, shuffle=True, seed=1, rank=1, world_size=2)
    ranked.load_state_dict(state)
    with pytest.raises(ValueError, match="as many ranks and workers as there were"):
        iter(ranked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is at least 1, but got 0"),
        ({"buffer_rows": 0}, "buffer_rows is at least 1"),
        ({"seed": -1}, "seed is at least 0"),
        ({"rank": 2, "world_size": 2}, "rank is from 0 to world_size - 1 = 1, but got 2"),
        ({"rank": 2}, "give both or none"),
        ({"columns": ["nope"]}, "has no column"),
    ],
)
def test_wrong_options_are_refused_at_once(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    """With what was expected."""
    with pytest.raises(ValueError, match=message):
        stream(folder, **options)


def test_rank_is_torchruns_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no argument is needed under torchrun."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    made = stream(folder)
    assert (made.rank, made.world_size) == (1, 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_transforms_apply(folder: Path, workers: int) -> None:
    """Of samples, and of the columns of a batch."""
    by_sample = stream(folder, transform=lambda sample: sample["int64"] * 2)
    loader = fastload.DataLoader(by_sample, batch_size=3, num_workers=workers)
    assert next(iter(loader)).tolist() == [0, 2, 4]
    by_batch = stream(folder, batch_size=3, batch_transform=lambda columns: columns["int64"] + 1)
    loader = fastload.DataLoader(by_batch, batch_size=None, num_workers=workers)
    assert next(iter(loader)).tolist() == [1, 2, 3]


def test_null_is_named_with_its_row(tmp_path: Path) -> None:
    """The row of the dataset, also in a shuffled buffer."""
    values = pa.array([*range(150), None, *range(49)], pa.int64())
    write_parquet(pa.table({"x": values}), tmp_path / "x.parquet", rows_per_group=20)
    made = ParquetStream(tmp_path / "x.parquet", batch_size=7, shuffle=True, buffer_rows=60)
    with pytest.raises(ValueError, match="column 'x' is null in row 150"):
        list(made)


def test_leaving_early_leaves_nothing_behind(folder: Path) -> None:
    """The thread that reads ahead ends with the iterator."""
    import threading

    iterator = iter(stream(folder, batch_size=1))
    next(iterator)
    del iterator
    assert not [t for t in threading.enumerate() if t.name.startswith("fastload-parquet")]


def test_an_error_while_reading_ahead_is_raised(folder: Path) -> None:
    """In its place: after the rows before it."""
    path = folder / "2.parquet"
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    made = ParquetStream(folder, batch_size=GROUP)
    seen = []
    with pytest.raises(fastload.CorruptDataError, match=r"2\.parquet, row group 0"):
        for batch in made:
            seen += batch["text"]
    assert seen == ALL[: len(seen)]
    assert len(seen) > 300


def test_remote_files_are_read(folder: Path) -> None:
    """Any file system of pyarrow's, with and without filters."""
    filesystem = pa.fs.SubTreeFileSystem(str(folder), pa.fs.LocalFileSystem())
    assert texts(stream("*.parquet", filesystem=filesystem)) == ALL  # type: ignore[arg-type]
    chosen = stream("", filesystem=filesystem, filters=pc.field("int64") < 0)  # type: ignore[arg-type]
    assert texts(chosen) == []


def test_a_loader_that_makes_batches_of_batches_says_so(folder: Path) -> None:
    """Both sizes are named; single samples, batches alone and an own collate function are quiet."""
    made = stream(folder, batch_size=4)
    with pytest.warns(UserWarning, match=r"batches of 4 rows, and the loader puts 3 of them"):
        fastload.DataLoader(made, batch_size=3)
    fastload.DataLoader(made, batch_size=None)
    fastload.DataLoader(made, batch_size=3, collate_fn=list)
    fastload.DataLoader(stream(folder), batch_size=3)


def test_a_state_of_other_files_of_equal_lengths_is_refused(tmp_path):
    """Wherever the files lie, it fits files of the same names; a copied folder goes on."""
    table = pa.table({"x": range(20)})
    for folder, name in (("a", "one"), ("b", "one"), ("b", "two")):
        (tmp_path / folder).mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / folder / f"{name}.parquet", row_group_size=5)
    stream = ParquetStream(str(tmp_path / "a" / "one.parquet"), batch_size=4)
    for loader in (stream, fastload.DataLoader(stream, batch_size=None, seed=0)):
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        for name, fits in (("one", True), ("two", False)):
            other = ParquetStream(str(tmp_path / "b" / f"{name}.parquet"), batch_size=4)
            if loader is not stream:
                other = fastload.DataLoader(other, batch_size=None, seed=0)
            if fits:
                other.load_state_dict(state)
            else:
                with pytest.raises(ValueError, match="stream"):
                    other.load_state_dict(state)
