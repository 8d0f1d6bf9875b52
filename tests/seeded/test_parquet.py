"""``ParquetStream`` in a seeded stream: woven from canonical shards."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastload
from fastload.datasets import ParquetStream, write_parquet
from fastload.datasets.weave import Weave

ROWS = 1_003


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of small row groups."""
    path = tmp_path_factory.mktemp("data") / "rows.parquet"
    write_parquet(
        {"x": np.arange(ROWS), "y": np.arange(ROWS, dtype=np.float32) / 2},
        path,
        rows_per_group=37,
    )
    return path


def make_stream(file, **options):
    """A stream whose shards take short turns."""
    return ParquetStream(
        file,
        **{"shuffle": True, "buffer_rows": 300, "canonical_shards": 4, "turn_rows": 8} | options,
    )


def joined(
    file, *, batch_size=16, ranks=1, epochs=2, loader_batch_size=None, stream=None, **options
):
    """The numbers of the rows of each epoch, of all ranks in order."""
    parts = []
    for rank in range(ranks):
        with fastload.DataLoader(
            make_stream(file, batch_size=batch_size, **(stream or {})),
            batch_size=loader_batch_size,
            seed=7,
            num_replicas=ranks,
            rank=rank,
            even="none",
            **options,
        ) as loader:
            assert len(loader) == len(list(loader))
            loader.set_epoch(0)
            parts.append([[batch["x"].tolist() for batch in loader] for _ in range(epochs)])
    return [
        [row for step in itertools.zip_longest(*epoch) for batch in step if batch for row in batch]
        for epoch in zip(*parts, strict=True)
    ]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(1, 7))
def test_shards_take_turns_until_one_runs_out(lengths, turn):
    """Row for row as a loop over the shards would give them."""
    firsts = [sum(lengths[:number]) for number in range(len(lengths))]
    left = [
        list(range(first, first + length)) for first, length in zip(firsts, lengths, strict=True)
    ]
    expected = []
    while any(left):
        for rows in left:
            expected += rows[:turn]
            del rows[:turn]
    positions = np.arange(sum(lengths))
    assert Weave(lengths, turn).rows(positions).tolist() == expected
    assert Weave(lengths, turn).rows(positions[::-1].copy()).tolist() == expected[::-1]


SETTINGS = {
    "one worker": {"num_workers": 1},
    "three workers": {"num_workers": 3},
    "another batch size": {"batch_size": 21},
    "two ranks": {"ranks": 2, "num_workers": 2},
    "three ranks": {"ranks": 3, "batch_size": 10},
    "kept workers": {"num_workers": 2, "persistent_workers": True},
    "single rows": {"batch_size": None, "loader_batch_size": 9, "num_workers": 1},
    "forkserver": {"num_workers": 1, "multiprocessing_context": "forkserver"},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_rows_are_the_same_in_every_setting(file, setting):
    """The order follows from the stream's seed and the epoch; each row comes once."""
    expected = joined(file)
    assert joined(file, **setting) == expected
    assert sorted(expected[0]) == list(range(ROWS))
    assert expected[0] != expected[1]


def test_one_shard_without_shuffling_is_the_order_of_the_file(file):
    """With ``canonical_shards=1`` nothing is woven."""
    found = joined(file, epochs=1, stream={"shuffle": False, "canonical_shards": 1})
    assert found == [list(range(ROWS))]


def count_reads(monkeypatch):
    """Note which row groups are read."""
    reads = []
    original = ParquetStream._fill

    def fill(stream, numbers, epoch):
        reads.append(tuple(numbers))
        return original(stream, numbers, epoch)

    monkeypatch.setattr(ParquetStream, "_fill", fill)
    return reads


def test_without_workers_each_row_group_is_read_once(file, monkeypatch):
    """As many windows are kept as there are shards."""
    reads = count_reads(monkeypatch)
    joined(file, epochs=0)
    assert len(reads) == len(set(reads))


def test_a_rank_that_divides_the_turns_reads_its_part_alone(file, monkeypatch):
    """If the condition in the module's docstring holds, no row group is read by two ranks."""
    seen = []
    for rank in range(2):
        reads = count_reads(monkeypatch)
        list(
            fastload.DataLoader(
                make_stream(file, batch_size=16),
                None,
                seed=7,
                num_replicas=2,
                rank=rank,
                even="drop",
            )
        )
        monkeypatch.undo()
        seen.append(set(reads))
    whole = len(seen[0] | seen[1])
    assert len(seen[0]) + len(seen[1]) <= whole + 4  # where the shortest shard has run out


def test_a_stream_goes_on_elsewhere(file):
    """From a position, with other workers and another batch size."""
    (expected,) = joined(file, epochs=1)
    first = fastload.DataLoader(make_stream(file, batch_size=16), None, seed=7)
    steps = iter(first)
    found = [next(steps)["x"] for _ in range(20)]
    state = first.state_dict()
    assert state["position"] == 320
    with fastload.DataLoader(
        make_stream(file, batch_size=50), None, seed=7, num_workers=2
    ) as second:
        second.load_state_dict(state)
        found += [batch["x"] for batch in second]
    assert torch.cat(found).tolist() == expected


def test_a_resume_reads_no_row_group_that_was_delivered(file, monkeypatch):
    """Nothing grows with the position."""
    loader = fastload.DataLoader(make_stream(file, batch_size=16), None, seed=7)
    steps = iter(loader)
    for _ in range(50):
        next(steps)
    state = loader.state_dict()
    reads = count_reads(monkeypatch)
    other = fastload.DataLoader(make_stream(file, batch_size=16), None, seed=7)
    other.load_state_dict(state)
    next(iter(other))
    assert len(reads) <= 4


def noisy(row):
    """A transform that draws."""
    return {**row, "drawn": random.random() + np.random.random() + torch.rand(()).item()}


@pytest.mark.parametrize("workers", [0, 2])
def test_draws_of_transforms_follow_from_the_row(file, workers):
    """A transform is called with generators set for the row's position."""

    def drawn(batch_size, workers):
        with fastload.DataLoader(
            make_stream(file, transform=noisy), batch_size, seed=7, num_workers=workers
        ) as loader:
            return torch.cat([batch["drawn"] for batch in loader])

    expected = drawn(1, 0)
    assert torch.equal(drawn(20, workers), expected)
    assert len(expected.unique()) == ROWS


@pytest.mark.parametrize(
    ("stream", "loader", "message"),
    [
        ({"batch_size": 4}, {"batch_size": 4}, "makes batches itself.*batch_size=4 for the loader"),
        ({"filters": [("x", ">", 3)]}, {"batch_size": 4}, "with filters can't be read with seed="),
        (
            {"rank": 1, "world_size": 2},
            {"batch_size": 4},
            "given rank 1 of 2, but the loader with seed= .* is rank 0 of 1",
        ),
    ],
    ids=["two sizes", "filters", "another rank"],
)
def test_what_can_not_be_is_refused(file, stream, loader, message):
    """At the latest when the epoch begins."""
    with pytest.raises(ValueError, match=message):
        list(fastload.DataLoader(make_stream(file, **stream), seed=7, **loader))


def test_a_state_of_another_weave_is_refused(file):
    """It names what differs."""
    loader = fastload.DataLoader(make_stream(file, batch_size=16), None, seed=7)
    other = fastload.DataLoader(make_stream(file, batch_size=16, canonical_shards=2), None, seed=7)
    with pytest.raises(ValueError, match="canonical_shards 4; this loader has canonical_shards 2"):
        other.load_state_dict(loader.state_dict())
