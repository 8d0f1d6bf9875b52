"""Rows of Arrow and Parquet files: the dataset usually written against fastload's own.

The files lie in a folder that is gone when the process ends, and in the page cache.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset

from fastload import ArrowDataset, ParquetDataset
from fastload.datasets import write_arrow, write_parquet
from fastload.tools.bench.child import FOLDER
from fastload.tools.bench.workload import Recipe

_WIDTH = 16
_NUMBERS = "age", "label"

Row = dict[str, Any]


class TableRows(Dataset[Row]):
    """A table in memory; each sample is a row of it, converted from Arrow."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> Row:
        row: Row = {name: self.table[name][index].as_py() for name in self.table.column_names}
        row["vector"] = torch.tensor(row["vector"])
        return row


class ColumnRows(Dataset[Row]):
    """The columns of a table as NumPy arrays and lists; each sample is a row of them."""

    def __init__(self, table: Any) -> None:
        self.vectors = np.stack(table["vector"].to_numpy())
        self.numbers = {name: table[name].to_numpy() for name in _NUMBERS}
        self.names = table["name"].to_pylist()

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> Row:
        numbers = {name: values[index] for name, values in self.numbers.items()}
        return {
            "vector": torch.from_numpy(self.vectors[index]),
            **numbers,
            "name": self.names[index],
        }


def _make_columns(samples: int) -> dict[str, Any]:
    """Return records of a vector `(16,)` of float32, two numbers and a short string."""
    draw = np.random.default_rng(0)
    return {
        "vector": draw.random((samples, _WIDTH), np.float32),
        "age": draw.random(samples) * 100,
        "label": draw.integers(0, 10, samples),
        "name": [f"user {number}" for number in draw.integers(0, 1_000_000, samples)],
    }


def _make_file(samples: int, suffix: str) -> Path:
    folder = tempfile.mkdtemp(prefix="fastload-bench-", dir=os.environ.get(FOLDER))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / f"records{suffix}"
    write = write_arrow if suffix == ".arrow" else write_parquet
    write(_make_columns(samples), file)
    return file


def arrow_usual(samples: int) -> Recipe:
    """An Arrow file read into memory, shuffled, converted row by row."""
    with pa.OSFile(str(_make_file(samples, ".arrow"))) as file:
        table = pa.ipc.open_file(file).read_all()
    return Recipe(TableRows(table), {"shuffle": True})


def arrow_own(samples: int) -> Recipe:
    """An Arrow file mapped by us, shuffled."""
    return Recipe(ArrowDataset(_make_file(samples, ".arrow")), {"shuffle": True})


def parquet_usual(samples: int) -> Recipe:
    """A Parquet file read into memory and made columns of NumPy, taken row by row."""
    return Recipe(ColumnRows(pq.read_table(_make_file(samples, ".parquet"))))


def parquet_own(samples: int) -> Recipe:
    """A Parquet file read by us, a row group at a time."""
    return Recipe(ParquetDataset(_make_file(samples, ".parquet")))
