"""How far ahead is fastload of other ways to load the same dataset?

Each class or function below makes a loader of a user's own dataset as torch's DataLoader does, with
the same batches in the same order. ``python benchmarks/peers.py`` races each of them, and fastload,
against torch with ``fastload bench``, which checks equal output first, and writes ``peers.json``.
What is not installed is left out: ``pip install torchdata spdl grain`` (see constraints.txt for
torch's version first).

Caveats: an adapter is written as its library's documentation shows it, with as many workers as
torch gets and two batches ahead for each, not tuned further. Loaders with a file format of their
own answer another question and are not here. The last rows know the data: ``__getitems__`` makes a
whole batch, and the plain gather, which is no loader, is the ceiling. For ``tokens`` the ceiling is
what processes reach that only load, copy and say where the batch lies.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import marshal
import math
import mmap
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, StackDataset, Subset, default_collate

import fastload
from fastload._worker.allocator import keep_freed_memory
from fastload.tools.bench.machine import version_of
from fastload.tools.bench.workloads.images import PooledImages
from fastload.tools.bench.workloads.small_rows import ArrayRows

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "peers.json"
AHEAD = 2


class Peer:
    """Batches of consecutive samples, however they are made."""

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        num_workers: int,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        persistent_workers: bool = False,
    ) -> None:
        del persistent_workers
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.collate_fn = collate_fn

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def batches(self) -> Iterator[list[int]]:
        """The indices of each batch."""
        indices = range(len(self.dataset))
        for start in range(0, len(indices), self.batch_size):
            yield list(indices[start : start + self.batch_size])

    def load(self, indices: list[int]) -> Any:
        """One batch."""
        return self.collate_fn([self.dataset[index] for index in indices])

    def __iter__(self) -> Iterator[Any]:
        torch.empty((), dtype=torch.int64).random_()  # torch draws a seed for its workers
        return self.produce()

    def produce(self) -> Iterator[Any]:
        """The batches of one epoch."""
        return map(self.load, self.batches())


class ThreadPool(Peer):
    """The standard library's threads, a window of batches ahead."""

    def produce(self) -> Iterator[Any]:
        """One future a batch."""
        if self.num_workers == 0:
            yield from super().produce()
            return
        with ThreadPoolExecutor(self.num_workers) as pool:
            pending: deque[Future[Any]] = deque()
            batches = self.batches()
            for indices in itertools.islice(batches, AHEAD * self.num_workers):
                pending.append(pool.submit(self.load, indices))
            while pending:
                batch = pending.popleft().result()
                for indices in itertools.islice(batches, 1):
                    pending.append(pool.submit(self.load, indices))
                yield batch


class NodesThreads(Peer):
    """torchdata.nodes with its threads."""

    def produce(self) -> Iterator[Any]:
        """One task a batch, in order."""
        from torchdata.nodes import IterableWrapper, Loader, ParallelMapper

        node: Any = IterableWrapper(self.batches())
        node = ParallelMapper(
            node,
            self.load,
            num_workers=max(1, self.num_workers),
            in_order=True,
            method="thread",
            prebatch=None,
        )
        return iter(Loader(node))


_peer: Any = None


def _load_in_process(indices: list[int]) -> Any:
    return _to_arrays(_peer.load(indices))


class ProcessPool(Peer):
    """multiprocessing's pool; batches are pickled as NumPy arrays."""

    def produce(self) -> Iterator[Any]:
        """One task a batch, in order."""
        global _peer  # noqa: PLW0603  (inherited by the pool's processes)
        _peer = self
        with multiprocessing.get_context("fork").Pool(
            self.num_workers, torch.set_num_threads, (1,)
        ) as pool:
            for batch in pool.imap(_load_in_process, self.batches()):
                yield _to_tensors(batch)


class NumpyCollate(Peer):
    """torch's DataLoader, its batches pickled as NumPy arrays instead of shared as tensors."""

    def __iter__(self) -> Iterator[Any]:
        def collate(samples: list[Any]) -> Any:
            return _to_arrays(self.collate_fn(samples))

        loader = DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
        )
        return map(_to_tensors, loader)


def _to_arrays(batch: Any) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.numpy()
    return type(batch)(map(_to_arrays, batch)) if isinstance(batch, list | tuple) else batch


def _to_tensors(batch: Any) -> Any:
    if isinstance(batch, list | tuple):
        return type(batch)(map(_to_tensors, batch))
    return torch.from_numpy(batch) if hasattr(batch, "dtype") else batch


class SpdlThreads(Peer):
    """SPDL's pipeline with its threads."""

    def produce(self) -> Iterator[Any]:
        """One task a batch, in order."""
        from spdl.pipeline import PipelineBuilder

        threads = max(1, self.num_workers)
        builder = PipelineBuilder().add_source(self.batches())
        builder = builder.pipe(self.load, concurrency=threads, output_order="input")
        pipeline = builder.add_sink(AHEAD * threads).build(num_threads=threads)
        with pipeline.auto_stop():
            yield from pipeline.get_iterator()


class GrainProcesses(Peer):
    """Grain with its processes, and no threads in them: the samples lie in memory."""

    def produce(self) -> Iterator[Any]:
        """Batches of arrays, which Grain puts in shared memory."""
        import grain

        whole = grain.MapDataset.source(self.dataset)
        batches = whole.batch(self.batch_size, batch_fn=self.collate_to_arrays).to_iter_dataset(
            grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        )
        options = grain.MultiprocessingOptions(self.num_workers, per_worker_buffer_size=AHEAD)
        return map(_to_tensors, batches.mp_prefetch(options))

    def collate_to_arrays(self, samples: Sequence[Any]) -> Any:
        """One batch."""
        return _to_arrays(self.collate_fn(list(samples)))


class WithGetitems(Dataset[Any]):
    """The same samples, a batch at a time."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.labels = LABELS[type(dataset)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        """A finished batch: what the default collate would make of the samples."""
        numbers = torch.tensor(indices)
        pool = torch.as_tensor(self.dataset.pool)
        return [pool[numbers % len(pool)], numbers % self.labels]


LABELS = {ArrayRows: 10, PooledImages: 1_000}
"""Of which label a sample is: its index modulo this."""


def torch_with_getitems(dataset: Any, **options: Any) -> Any:
    """Torch's loader over a dataset that makes whole batches."""
    return DataLoader(WithGetitems(dataset), collate_fn=_as_it_is, **options)


def fastload_with_getitems(dataset: Any, **options: Any) -> Any:
    """Ours over the same."""
    return fastload.DataLoader(WithGetitems(dataset), collate_fn=_as_it_is, **options)


def fastload_in_memory(dataset: Any, **options: Any) -> Any:
    """Ours over torch's own datasets of what lies in memory: it gathers by itself."""
    size, count = len(dataset), len(dataset.pool)
    rows = Subset(dataset.pool, [index % count for index in range(size)])
    labels = torch.arange(size) % LABELS[type(dataset)]
    return fastload.DataLoader(StackDataset(rows, labels), **options)  # type: ignore[arg-type]


class PlainGather(Peer):
    """No loader at all: the training loop indexes the tensors."""

    def produce(self) -> Iterator[Any]:
        """The batches of one epoch."""
        return map(WithGetitems(self.dataset).__getitems__, self.batches())


class BareProcesses(Peer):
    """No loader either: what processes in Python can't do without, for dicts of int64 tensors.

    Nothing is checked, counted or kept in use as long as somebody looks at it; a process that
    dies is waited for without end.
    """

    slot_bytes = 1 << 20
    report_bytes = 256

    def produce(self) -> Iterator[Any]:
        """The batches of one epoch, as many ahead as torch's loader has."""
        workers, most, batches = self.num_workers, AHEAD * self.num_workers, list(self.batches())
        memory = np.frombuffer(mmap.mmap(-1, (most + 2) * self.slot_bytes), np.uint8)
        orders = [os.pipe() for _ in range(workers)]
        reports = [os.pipe() for _ in range(workers)]
        start = multiprocessing.get_context("fork").Process
        processes = [
            start(target=self.serve, args=(batches, memory, ordered[0], reported[1]), daemon=True)
            for ordered, reported in zip(orders, reports, strict=True)
        ]
        for process in processes:
            process.start()
        try:
            for number in range(min(most, len(batches))):
                os.write(orders[number % workers][1], number.to_bytes(8, "little"))
            for number in range(len(batches)):
                report = os.read(reports[number % workers][0], self.report_bytes)
                if number + most < len(batches):
                    os.write(orders[number % workers][1], (number + most).to_bytes(8, "little"))
                yield {
                    key: torch.frombuffer(
                        memory, dtype=torch.int64, count=math.prod(shape), offset=offset
                    ).resize_(shape)
                    for key, offset, shape in marshal.loads(report)
                }
        finally:
            for process in processes:
                process.kill()
                process.join()
            for descriptor in itertools.chain(*orders, *reports):
                os.close(descriptor)

    def serve(self, batches: list[list[int]], memory: Any, orders: int, reports: int) -> None:
        """Load, copy and report, one batch after the other."""
        torch.set_num_threads(1)
        keep_freed_memory()
        address = memory.ctypes.data
        while True:
            number = int.from_bytes(os.read(orders, 8), "little")
            offset, layout = number * self.slot_bytes % len(memory), []
            for key, tensor in self.load(batches[number]).items():
                ctypes.memmove(address + offset, tensor.data_ptr(), tensor.nbytes)
                layout.append((key, offset, tuple(tensor.shape)))
                offset += tensor.nbytes
            os.write(reports, marshal.dumps(layout).ljust(self.report_bytes))


def _as_it_is(batch: Any) -> Any:
    return batch


ANY = "images-uint8", "tiny-numpy", "tokens", "jpeg"
INLINE = "tiny-numpy-inline"
IN_MEMORY = "images-uint8", "tiny-numpy", INLINE

PEERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fastload": ("fastload", (*ANY, INLINE)),
    "threads of the standard library": ("benchmarks.peers:ThreadPool", ANY),
    "torchdata.nodes, threads": ("benchmarks.peers:NodesThreads", ANY),
    "SPDL, threads": ("benchmarks.peers:SpdlThreads", ANY),
    "Grain, processes": ("benchmarks.peers:GrainProcesses", ANY),
    "torchdata, StatefulDataLoader": (
        "torchdata.stateful_dataloader:StatefulDataLoader",
        (*ANY, INLINE),
    ),
    "multiprocessing.Pool, NumPy arrays": ("benchmarks.peers:ProcessPool", ANY),
    "torch, collate to NumPy arrays": ("benchmarks.peers:NumpyCollate", ANY),
    "torch, dataset with `__getitems__`": ("benchmarks.peers:torch_with_getitems", IN_MEMORY),
    "fastload, dataset with `__getitems__`": (
        "benchmarks.peers:fastload_with_getitems",
        IN_MEMORY,
    ),
    "fastload, torch's `StackDataset`": ("benchmarks.peers:fastload_in_memory", IN_MEMORY),
    "plain gather, no loader": ("benchmarks.peers:PlainGather", IN_MEMORY),
    "bare processes, no loader": ("benchmarks.peers:BareProcesses", ("tokens",)),
}
"""The class, and the workloads for which it makes sense."""


def race(loader: str, workloads: Sequence[str], options: Sequence[str]) -> dict[str, Any]:
    """What ``fastload bench`` says of one loader."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        chosen = [option for workload in workloads for option in ("--workload", workload)]
        command = [sys.executable, "-m", "fastload", "bench", "--loader", loader, *chosen]
        ended = subprocess.run([*command, *options, "--json", str(file)], cwd=ROOT, check=False)
        if not file.exists():  # wrong options, or --help
            sys.exit(ended.returncode)
        document: dict[str, Any] = json.loads(file.read_text())
        return document


def _ratios(document: dict[str, Any]) -> dict[str, float | None]:
    """To torch, by workload; None where the loader failed."""
    return {
        each["workload"]: None if each["summary"] is None else each["summary"]["ratio"]["median"]
        for each in document["workloads"]
    }


def _versions() -> dict[str, str]:
    found = {name: version_of(name) for name in ("torch", "torchdata", "grain", "spdl")}
    return {name: version for name, version in found.items() if version is not None}


def main() -> None:
    """Race all of them, with any options of ``fastload bench``, and write the results."""
    ratios, document = {}, {}
    for name, (loader, workloads) in PEERS.items():
        document = race(loader, workloads, sys.argv[1:])
        ratios[name] = _ratios(document)
    conditions = {key: document[key] for key in ("machine", "settings")}
    results = {**conditions, "versions": _versions(), "ratios": ratios}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
