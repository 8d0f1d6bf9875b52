"""Tables with a column of every kind, and what a batch of their rows must be."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import torch

ROWS = 1_003


def mixed_table(rows: int = ROWS, start: int = 0) -> pa.Table:
    numbers = np.arange(start, start + rows)
    columns: dict[str, Any] = {
        name: pa.array((numbers % 100).astype(name))
        for name in (
            *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *("float16", "float32", "float64"),
        )
    }
    columns["bool"] = pa.array(numbers % 3 == 0)
    columns["time"] = pa.array(numbers * 1_000, pa.timestamp("us"))
    columns["day"] = pa.array((numbers % 1_000).astype(np.int32), pa.date32())
    columns["vector"] = vectors(numbers.astype(np.float32), 3)
    columns["matrix"] = pa.FixedSizeListArray.from_arrays(vectors(numbers, 2, 3), 3)
    columns["tokens"] = pa.array([[int(n)] * (n % 5) for n in numbers], pa.list_(pa.int32()))
    columns["long_tokens"] = pa.array(
        [list(range(n % 4)) for n in numbers], pa.large_list(pa.float32())
    )
    columns["text"] = pa.array([f"row {n}" for n in numbers])
    columns["bytes"] = pa.array([bytes([n % 256]) * (n % 3) for n in numbers], pa.binary())
    columns["class"] = pa.array([f"class {n % 7}" for n in numbers])
    return pa.table(columns)


def vectors(numbers: np.ndarray, size: int, repeats: int = 1) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(numbers, size * repeats)), size)


TORCH = {name: getattr(torch, name) for name in mixed_table(1).column_names[:12]}
TORCH |= {
    "time": torch.int64,
    "day": torch.int32,
    "vector": torch.float32,
    "matrix": torch.int64,
    "tokens": torch.int32,
    "long_tokens": torch.float32,
}
RAGGED = ("tokens", "long_tokens")


def expected(table: pa.Table, name: str, rows: list[int]) -> Any:
    """A column of a batch, made row by row of Python objects."""
    values = [_plain(table[name][row].as_py()) for row in rows]
    if name not in TORCH:
        return values
    if name in RAGGED:
        return [torch.tensor(value, dtype=TORCH[name]) for value in values]
    return torch.tensor(np.array(values)).to(TORCH[name])


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return int((value - dt.datetime(1970, 1, 1)) / dt.timedelta(microseconds=1))
    if isinstance(value, dt.date):
        return (value - dt.date(1970, 1, 1)).days
    return value


def assert_batch(batch: dict[str, Any], table: pa.Table, rows: list[int]) -> None:
    """Types, dtypes and values of each column."""
    assert list(batch) == table.column_names
    for name, got in batch.items():
        wanted = expected(table, name, rows)
        if name in RAGGED:
            assert got.is_nested, name
            got = list(got.unbind())
            assert [each.dtype for each in got] == [each.dtype for each in wanted], name
            assert [each.tolist() for each in got] == [each.tolist() for each in wanted], name
        elif name in TORCH:
            assert type(got) is torch.Tensor, name
            assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), name
            assert got.tolist() == wanted.tolist(), name
        else:
            assert got == wanted, name
