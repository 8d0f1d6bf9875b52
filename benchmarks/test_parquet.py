"""How fast do batches come from one Parquet or Arrow file, and what memory does it take?

    python benchmarks/test_parquet.py                     # the table in docs/datasets.md
    python benchmarks/test_parquet.py --rows 200000 --rounds 1 --only Parquet

Half a million rows of a vector of 16 float32, a label and two numbers, 42 MB. With torch's
DataLoader the file is read the usual way: a dataset class that has called ``read_table`` when it
was made and converts a row in ``__getitem__``; torch has no stream for Parquet, so the same class
stands beside ours. Hugging Face ``datasets``, where it is installed, reads the file with
``with_format("torch")`` in the fastest ways of its manual: by index, a batch at a time, with
torch's loader; as a stream by its own ``iter(batch_size=)``, or with a worker by torch's loader.
``pyarrow alone`` reads all row groups, one after another, in one thread, and makes nothing of
them; that is what the stream is to be held against.

Each reader runs in fresh processes, in turn with the others, and reads one epoch that is not
counted and then ``EPOCHS`` that are. In the first, every value is compared with the table. Ratios
are medians of those within a round. Peak memory is the proportional set size of the process and
its workers, sampled, over both sizes of batches.

Caveats: the file is in the page cache; nothing is done with a batch; the readers differ in what
they can do (the map-style ones read any row by index, the streams do not); Hugging Face makes
float32 of float64, and its preparation of the file is not counted. The stream wants a core for
each of three threads: decoding, making batches, and the training loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
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
import pytest
import torch
import torch.utils.data
from torch.utils.data import BatchSampler, Dataset, RandomSampler
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
BATCHES = (1024, 8192)
WIDTH = 16
COLUMNS = ("x", "label", "a", "b")
HAS_HUGGING_FACE = importlib.util.find_spec("datasets") is not None


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
Reader = Callable[[], Batches]


def pyarrow_alone(folder: Path, workers: int, batch: int) -> Reader:
    del workers, batch

    def read() -> Batches:
        file = pq.ParquetFile(folder / "x.parquet", memory_map=True)
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, use_threads=False)
            yield {name: table[name] for name in COLUMNS}

    return read


def torch_table(folder: Path, workers: int, batch: int) -> Reader:
    dataset = TableRows(pq.read_table(folder / "x.parquet"))
    return _loader(torch.utils.data.DataLoader, dataset, workers, batch_size=batch, shuffle=True)


def hugging_face(folder: Path, workers: int, batch: int) -> Reader:
    dataset = _hugging_face_file(folder, streaming=False)
    # As its manual says: a sampler that yields whole batches is many times faster.
    sampler = BatchSampler(RandomSampler(dataset), batch, drop_last=False)
    kind = torch.utils.data.DataLoader
    return _loader(kind, dataset, workers, batch_size=None, sampler=sampler)


def hugging_face_stream(folder: Path, workers: int, batch: int) -> Reader:
    dataset = _hugging_face_file(folder, streaming=True)
    if workers == 0:
        return lambda: dataset.iter(batch_size=batch)  # its fastest way needs no loader
    return _loader(torch.utils.data.DataLoader, dataset.batch(batch), workers, batch_size=None)


def _hugging_face_file(folder: Path, *, streaming: bool) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()
    files, cache = str(folder / "x.parquet"), str(folder / "cache")
    made: Any = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=cache, streaming=streaming
    )
    return made.with_format("torch")


def fastload_table(folder: Path, workers: int, batch: int) -> Reader:
    dataset = TableRows(pq.read_table(folder / "x.parquet"))
    return _loader(fastload.DataLoader, dataset, workers, batch_size=batch, shuffle=True)


def arrow(folder: Path, workers: int, batch: int) -> Reader:
    dataset = ArrowDataset(folder / "x.arrow")
    return _loader(fastload.DataLoader, dataset, workers, batch_size=batch, shuffle=True)


def parquet(folder: Path, workers: int, batch: int) -> Reader:
    dataset = ParquetDataset(folder / "x.parquet")
    return _loader(fastload.DataLoader, dataset, workers, batch_size=batch)


def stream(folder: Path, workers: int, batch: int) -> Reader:
    dataset = ParquetStream(folder / "x.parquet", batch_size=batch)
    return _loader(fastload.DataLoader, dataset, workers, batch_size=None)


def stream_shuffled(folder: Path, workers: int, batch: int) -> Reader:
    dataset = ParquetStream(folder / "x.parquet", batch_size=batch, shuffle=True)
    return _loader(fastload.DataLoader, dataset, workers, batch_size=None)


def _loader(kind: Any, dataset: Any, workers: int, **options: Any) -> Reader:
    loader = kind(dataset, num_workers=workers, persistent_workers=workers > 0, **options)
    return lambda: iter(loader)


ALONE, USUAL = "pyarrow alone", "torch, rows of a table"

READERS: dict[str, tuple[Callable[[Path, int, int], Reader], tuple[int, ...]]] = {
    ALONE: (pyarrow_alone, (0,)),
    USUAL: (torch_table, (0, 2)),
    "Hugging Face, by index": (hugging_face, (0, 2)),
    "Hugging Face, stream": (hugging_face_stream, (0, 1)),
    "fastload, rows of a table": (fastload_table, (0, 2)),
    "ArrowDataset, shuffled": (arrow, (0, 2)),
    "ParquetDataset, in order": (parquet, (0, 1)),
    "ParquetStream": (stream, (0, 1)),
    "ParquetStream, shuffled": (stream_shuffled, (0, 1)),
}
if not HAS_HUGGING_FACE:
    READERS = {name: reader for name, reader in READERS.items() if "Hugging" not in name}


def measure(reader: str, workers: int, batch: int, folder: Path) -> dict[str, float]:
    """Read whole epochs with one reader, in this process."""
    with _Peak() as peak:
        make_iterator = READERS[reader][0](folder, workers, batch)
        _compare(make_iterator(), pq.read_table(folder / "x.parquet"))
        started, rows = perf_counter(), 0
        for _ in range(EPOCHS):
            for each in make_iterator():
                rows += len(each["label"])
        elapsed_s = perf_counter() - started
    return {"rate": rows / elapsed_s, "peak_bytes": peak.bytes}


def _compare(batches: Batches, table: Any) -> None:
    """The same rows, with all their values; in which order is each reader's."""
    parts: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for batch in batches:
        for name, found in parts.items():
            found.append(_values(batch[name]))
    read = {name: np.concatenate(values) for name, values in parts.items()}
    # Hugging Face has rounded them.
    expected = {name: _values(table[name]).astype(read[name].dtype) for name in COLUMNS}
    orders = [np.lexsort((rows["b"], rows["a"])) for rows in (read, expected)]
    for name in COLUMNS:
        assert np.array_equal(read[name][orders[0]], expected[name][orders[1]]), name


def _values(column: Any) -> Any:
    if not isinstance(column, pa.ChunkedArray):
        return np.asarray(column) if not isinstance(column, torch.Tensor) else column.numpy().copy()
    array = column.combine_chunks()
    if not pa.types.is_fixed_size_list(array.type):
        return array.to_numpy()
    return array.flatten().to_numpy().reshape(len(array), -1)


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


Case = tuple[str, int, int]
Rounds = dict[Case, list[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Batches from Parquet and Arrow files.")
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="readers with this in their name")
    parser.add_argument("--one", nargs=4, metavar=("READER", "WORKERS", "BATCH", "FOLDER"))
    options = parser.parse_args()
    if options.one:
        reader, workers, batch, folder = options.one
        sys.stdout.write(json.dumps(measure(reader, int(workers), int(batch), Path(folder))))
        return
    cases = [
        (reader, count, batch)
        for reader, (_, workers) in READERS.items()
        if options.only in reader or reader in {ALONE, USUAL}
        for count in workers
        for batch in BATCHES
    ]
    found: Rounds = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), options.rows)
        for _ in range(options.rounds):
            for case in cases:
                command = [sys.executable, __file__, "--one", *map(str, case), folder]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[case].append(json.loads(done.stdout))
    sys.stdout.write(_table(found, options.rows))


def _table(found: Rounds, rows: int) -> str:
    versions = [f"pyarrow {pa.__version__}", f"torch {torch.__version__}"]
    if HAS_HUGGING_FACE:
        import datasets

        versions.append(f"datasets {datasets.__version__}")
    small, large = BATCHES
    half = "rows/s, {} | of torch | of pyarrow"
    lines = [
        f"{', '.join(versions)}; {rows:,} rows, batches of {small:,} and of {large:,}.",
        "",
        f"| reader | workers | {half.format(small)} | {half.format(large)} | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for reader, workers in dict.fromkeys((reader, workers) for reader, workers, _ in found):
        cells = [reader, str(workers)]
        for batch in BATCHES:
            case = reader, workers, batch
            rate = statistics.median(each["rate"] for each in found[case])
            usual, alone = _ratio(found, case, (USUAL, 2)), _ratio(found, case, (ALONE, 0))
            cells += [f"{rate:,.0f}", f"{usual:.1f}", f"{alone:.2f}"]
        runs = [run for batch in BATCHES for run in found[reader, workers, batch]]
        peak = max(run["peak_bytes"] for run in runs)
        lines.append(f"| {' | '.join([*cells, f'{peak / 2**20:.0f}'])} |")
    return "\n".join(lines) + "\n"


def _ratio(found: Rounds, case: Case, other: tuple[str, int]) -> float:
    """How many times as fast as another reader with batches of the same size."""
    pairs = zip(found[case], found[(*other, case[2])], strict=True)
    return statistics.median(ours["rate"] / theirs["rate"] for ours, theirs in pairs)


@pytest.mark.parametrize("reader", READERS)
def test_reading_is_measured(reader: str, tmp_path: Path) -> None:
    """Every reader gives the rows of the file."""
    write_files(tmp_path, 9_000)
    for workers in READERS[reader][1]:
        for batch in BATCHES:
            assert measure(reader, workers, batch, tmp_path)["rate"] > 0


if __name__ == "__main__":
    main()
