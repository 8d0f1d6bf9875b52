"""Damage files and read them: what a child of ``test_damage.py`` does, where it may crash.

    python -m tests.datasets.damage 100 parquet arrow

Prints one line a file: its kind, its seed and what came of it.
"""

from __future__ import annotations

import pickle
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fastload._memory.write import HEAP
from fastload.datasets import (
    ArrowDataset,
    ParquetDataset,
    ParquetStream,
    write_arrow,
    write_parquet,
)
from fastload.errors import CorruptDataError
from tests.datasets.tables import mixed_table

ROWS = 400
KINDS = ("arrow", "parquet", "stream", "filtered")


def write(kind: str, path: Path) -> None:
    table = mixed_table(ROWS)
    if kind == "arrow":
        write_arrow(table, path, rows_per_batch=100)
    else:
        write_parquet(table, path, rows_per_group=100)


def read(kind: str, path: Path) -> bytes:
    """Everything in the file, as bytes to compare."""
    batches: list[Any]
    if kind == "arrow":
        batches = [ArrowDataset(path).read(np.arange(ROWS), HEAP)]
    elif kind == "parquet":
        batches = [ParquetDataset(path).read(np.arange(ROWS), HEAP)]
    else:
        import pyarrow.compute as pc

        filters = pc.field("int64") >= 0 if kind == "filtered" else None
        made = ParquetStream(path, batch_size=ROWS, filters=filters)
        batches = [{name: _plain(v) for name, v in batch.items()} for batch in made]
    return pickle.dumps([{name: _content(v) for name, v in batch.items()} for batch in batches])


def _plain(values: Any) -> Any:
    return list(values.unbind()) if getattr(values, "is_nested", False) else values


def _content(values: Any) -> Any:
    if isinstance(values, tuple):
        return [_content(part) for part in values]
    if isinstance(values, list):
        return [_content(part) if hasattr(part, "numpy") else part for part in values]
    return np.asarray(values).tobytes()


def damage(content: bytes, seed: int) -> bytes:
    """One to four bits flipped, or the end cut off, by the seed."""
    draw = random.Random(seed)
    if draw.random() < 0.2:
        return content[: draw.randrange(len(content))]
    # A third of the flips hit the footer, which is small and where everything else is found.
    first = max(0, len(content) - 12_000) if draw.random() < 1 / 3 else 0
    damaged = bytearray(content)
    for bit in draw.sample(range(8 * first, 8 * len(content)), draw.randint(1, 4)):
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def damage_many(kind: str, files: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole"
        write(kind, path)
        content, expected = path.read_bytes(), read(kind, path)
        assert read(kind, path) == expected
        for seed in range(files):
            print(kind, seed, end=" ", flush=True)
            damaged = Path(folder) / f"{seed}.{kind}"
            damaged.write_bytes(damage(content, seed))
            try:
                outcome = "unchanged" if read(kind, damaged) == expected else "WRONG"
            except CorruptDataError as error:
                outcome = "refused" if damaged.name in str(error) else f"UNNAMED {error}"
            except Exception as error:  # any other is told by the test
                outcome = f"{type(error).__name__.upper()} {error}"
            damaged.unlink()
            print(outcome.replace("\n", " "), flush=True)


if __name__ == "__main__":
    for given in sys.argv[2:]:
        damage_many(given, int(sys.argv[1]))
