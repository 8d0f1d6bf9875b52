"""How fast do batches come from one Parquet or Arrow file, and what memory does it take?

    python benchmarks/test_parquet.py                     # the table in docs/datasets.md
    python benchmarks/test_parquet.py --rows 200000 --rounds 1

Half a million rows of a vector of 16 float32, a label and two numbers, 38 MB. With torch's
DataLoader the file is read the usual way: a dataset class that has called ``read_table`` when it
was made and converts a row in ``__getitem__``; torch has no stream for Parquet, so the same class
stands beside ours. ``pyarrow alone`` reads all row groups, one after another, in one thread, and
makes nothing of them; that is what the stream is to be held against.

Each reader runs in fresh processes, in turn with the others, and reads one epoch that is not
counted and then ``EPOCHS`` that are. Before, its batches are compared with the table. Peak memory
is the proportional set size of the process and its workers, sampled.

Caveats: the file is in the page cache; nothing is done with a batch; the readers differ in what
they can do (the map-style ones read any row by index, the stream does not).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.utils.data
from torch.utils.data import Dataset
from typing_extensions import Self

import fastload
from fastload.datasets import (
    ArrowDataset,
    ParquetDataset,
    ParquetStream,
    write_arrow,
    write_parquet,
)

EPOCHS = 2
BATCH = 1024
WIDTH = 16


class TableRows(Dataset[dict[str, Any]]):
    """The usual way: a table in memory, a row of it a sample."""

    def __init__(self, table: Any) -> None:
        self._vectors = np.stack(table["x"].to_numpy())
        self._columns = {name: table[name].to_numpy() for name in ("label", "a", "b")}

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = {name: values[index] for name, values in self._columns.items()}
        return {"x": torch.from_numpy(self._vectors[index]), **row}


Batches = Iterator[dict[str, Any]]


def pyarrow_alone(folder: Path, workers: int) -> Callable[[], Any]:
    del workers

    def read() -> Iterator[dict[str, Any]]:
        file = pq.ParquetFile(folder / "x.parquet", memory_map=True)
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, use_threads=False)
            yield {"label": table["label"]}

    return read


def torch_table(folder: Path, workers: int) -> Callable[[], Any]:
    dataset = TableRows(pq.read_table(folder / "x.parquet"))
    return _loader(torch.utils.data.DataLoader, dataset, workers, shuffle=True)


def fastload_table(folder: Path, workers: int) -> Callable[[], Any]:
    dataset = TableRows(pq.read_table(folder / "x.parquet"))
    return _loader(fastload.DataLoader, dataset, workers, shuffle=True)


def arrow(folder: Path, workers: int) -> Callable[[], Any]:
    return _loader(fastload.DataLoader, ArrowDataset(folder / "x.arrow"), workers, shuffle=True)


def parquet(folder: Path, workers: int) -> Callable[[], Any]:
    return _loader(fastload.DataLoader, ParquetDataset(folder / "x.parquet"), workers)


def stream(folder: Path, workers: int) -> Callable[[], Any]:
    dataset = ParquetStream(folder / "x.parquet", batch_size=BATCH)
    return _loader(fastload.DataLoader, dataset, workers, batch_size=None)


def stream_shuffled(folder: Path, workers: int) -> Callable[[], Any]:
    dataset = ParquetStream(folder / "x.parquet", batch_size=BATCH, shuffle=True)
    return _loader(fastload.DataLoader, dataset, workers, batch_size=None)


def _loader(kind: Any, dataset: Any, workers: int, **options: Any) -> Callable[[], Any]:
    options = {"batch_size": BATCH, "persistent_workers": workers > 0, **options}
    loader = kind(dataset, num_workers=workers, **options)
    return lambda: iter(loader)


READERS = {
    "pyarrow alone": (pyarrow_alone, (0,)),
    "torch, rows of a table": (torch_table, (0, 2)),
    "fastload, rows of a table": (fastload_table, (0, 2)),
    "ArrowDataset, shuffled": (arrow, (0, 2)),
    "ParquetDataset, in order": (parquet, (0, 1)),
    "ParquetStream": (stream, (0, 1)),
    "ParquetStream, shuffled": (stream_shuffled, (0, 1)),
}


def measure(reader: str, workers: int, folder: Path) -> dict[str, float]:
    """Read whole epochs with one reader, in this process."""
    with _Peak() as peak:
        make_iterator = READERS[reader][0](folder, workers)
        _compare(make_iterator(), pq.read_table(folder / "x.parquet", columns=["label"]))
        started, rows = perf_counter(), 0
        for _ in range(EPOCHS):
            for batch in make_iterator():
                rows += len(batch["label"])
        elapsed_s = perf_counter() - started
    return {"rate": rows / elapsed_s, "peak_bytes": peak.bytes}


def _compare(batches: Batches, table: Any) -> None:
    """The same rows; in which order is each reader's."""
    labels = np.concatenate([np.asarray(batch["label"]) for batch in batches])
    expected = table["label"].to_numpy()
    assert np.array_equal(np.sort(labels), np.sort(expected))


class _Peak:
    """The most memory that this process and its children have together."""

    def __init__(self) -> None:
        self.bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        is_over = False
        while not is_over:
            is_over = self._end.wait(0.1)  # the last sample is taken after the end
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.bytes = max(self.bytes, total)


def write_files(folder: Path, rows: int) -> None:
    draw = np.random.default_rng(0)
    data = {
        "x": draw.random((rows, WIDTH), np.float32),
        "label": draw.integers(0, 10, rows),
        "a": draw.random(rows),
        "b": draw.random(rows).astype(np.float32),
    }
    write_parquet(data, folder / "x.parquet")
    write_arrow(data, folder / "x.arrow")


def main() -> None:
    parser = argparse.ArgumentParser(description="Batches from Parquet and Arrow files.")
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, metavar=("READER", "WORKERS", "FOLDER"))
    options = parser.parse_args()
    if options.one:
        reader, workers, folder = options.one
        sys.stdout.write(json.dumps(measure(reader, int(workers), Path(folder))))
        return
    cases = [(reader, n) for reader, (_, workers) in READERS.items() for n in workers]
    found: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), options.rows)
        for _ in range(options.rounds):
            for reader, workers in cases:
                command = [sys.executable, __file__, "--one", reader, str(workers), folder]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[reader, workers].append(json.loads(done.stdout))
    sys.stdout.write(_table(found, options.rows))


def _table(found: dict[tuple[str, int], list[dict[str, float]]], rows: int) -> str:
    def rate(case: tuple[str, int]) -> float:
        return statistics.median(each["rate"] for each in found[case])

    usual, alone = rate(("torch, rows of a table", 2)), rate(("pyarrow alone", 0))
    lines = [
        f"pyarrow {pa.__version__}, {rows:,} rows, batches of {BATCH}",
        "",
        "| reader | workers | rows/s | of torch with 2 workers | of pyarrow alone | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for case, runs in found.items():
        peak = statistics.median(run["peak_bytes"] for run in runs) / 2**20
        lines.append(
            f"| {case[0]} | {case[1]} | {rate(case):,.0f} | {rate(case) / usual:.1f} "
            f"| {rate(case) / alone:.2f} | {peak:.0f} |"
        )
    return "\n".join(lines) + "\n"


def test_reading_is_measured(tmp_path: Path) -> None:
    """Every reader gives the rows of the file."""
    write_files(tmp_path, 5_000)
    for reader, (_, workers) in READERS.items():
        for count in workers:
            assert measure(reader, count, tmp_path)["rate"] > 0


if __name__ == "__main__":
    main()
