"""A default device changes nothing of what is computed on the CPU: indices, masks, columns, states.

Where torch has the same sampler, and at an epoch's beginning, where torch's loader draws a number,
the device is asked as it is there: on "meta" these fail in both.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import SequentialSampler, TensorDataset

import fastload
from fastload import datasets, samplers
from fastload.collate.propose import propose
from tests.contract.same import assert_same

ONES = torch.ones(4)
LENGTHS = [1 + 7 * k % 13 for k in range(40)]
TABLE = pa.table(
    {
        "n": pa.array([0, 1, None, 3], pa.int32()),
        "whole": pa.array([0, 1, 2, 3], pa.int32()),
        "b": pa.array([True, None, False, True]),
        "v": pa.array([[1, 2], [3, 4], None, [5, 6]], pa.list_(pa.int8(), 2)),
    }
)
SAMPLES = [{"x": [1, 2, 3], "y": 1.5, "z": np.ones(2)}, {"x": [4], "y": 2.5, "z": np.ones(3)}]


class OwnGenerators:
    """A sampler with a generator of each kind."""

    def __init__(self) -> None:
        self.python, self.numpy = random.Random(1), np.random.default_rng(2)
        self.old, self.torch = np.random.RandomState(3), torch.Generator(device="cpu")

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Any:
        order = list(range(8))
        self.python.shuffle(order)
        self.numpy.shuffle(order)
        return iter(order)


LOADER = fastload.DataLoader(range(8), sampler=OwnGenerators())


def a_stream(path: Path) -> Any:
    datasets.write_parquet(TABLE, path / "x.parquet")
    return list(datasets.ParquetStream(path / "x.parquet", nulls="mask", batch_size=2))


def rows_of(dataset: Any) -> Any:
    return dataset.__getitems__([3, 1, 2]), dataset[0]


def parquet(path: Path) -> Any:
    datasets.write_parquet(TABLE, path / "y.parquet")
    return rows_of(datasets.ParquetDataset(path / "y.parquet", nulls="mask"))


def a_mask(_: Path) -> Any:
    shard = samplers.shard(SequentialSampler(range(7)), 1, 2)
    return shard.mask(), list(shard)


RESULTS = {
    "ShuffleSampler": lambda _: list(samplers.ShuffleSampler(range(40), seed=1)),
    "BlockShuffleSampler": lambda _: list(samplers.BlockShuffleSampler(range(40), block_size=8)),
    "LengthGroupedBatchSampler": lambda _: list(samplers.LengthGroupedBatchSampler(LENGTHS, 4)),
    "TokenBudgetBatchSampler": lambda _: list(samplers.TokenBudgetBatchSampler(LENGTHS, 64)),
    "shard": a_mask,
    "ArrayDataset": lambda _: datasets.ArrayDataset({"x": np.arange(4), "y": ONES})[2],
    "ArrowDataset, nulls": lambda _: rows_of(datasets.ArrowDataset(TABLE, nulls="mask")),
    "ArrowDataset, fill": lambda _: rows_of(
        datasets.ArrowDataset(TABLE, ["n", "v"], fill={"n": -1, "v": [8, 9]})
    ),
    "ParquetDataset": parquet,
    "ParquetStream": a_stream,
    "SharedList": lambda _: list(datasets.SharedList([1.5, 2.5])),
    "pad": lambda _: fastload.pad(SAMPLES),
    "pad_dict": lambda _: fastload.pad_dict([{"x": [1, 2]}, {"x": [3]}]),
    "pack": lambda _: fastload.pack([{"x": [1, 2]}, {"x": [3]}]),
    "a proposal": lambda _: propose(SAMPLES),
    "a state": lambda _: LOADER.state_dict(),
}


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
def test_a_default_device_changes_nothing(make: Any, tmp_path: Path) -> None:
    """The result is on the CPU and the same, to the bit."""
    expected = make(tmp_path)
    with torch.device("meta"):
        result = make(tmp_path)
    assert_same(result, expected)


def test_a_state_that_was_saved_and_loaded_under_a_default_device_goes_on() -> None:
    """In the middle of an epoch whose sampler has generators of its own."""
    data = TensorDataset(torch.arange(8))

    def loader() -> fastload.DataLoader:
        return fastload.DataLoader(data, 2, sampler=OwnGenerators())

    first, second = loader(), loader()
    batches = iter(first)
    next(batches)
    with torch.device("meta"):
        state = first.state_dict()
        second.load_state_dict(state)
    rest = list(batches)
    assert_same(list(second), rest)
