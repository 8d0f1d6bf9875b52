"""How far ahead is fastload of other ways to load the same dataset?

Each class below takes a user's own dataset as torch's DataLoader does and gives the same batches,
in order. ``python benchmarks/peers.py`` races each of them, and fastload, against torch with
``fastload bench``, which checks equal output first, and writes ``peers.json``.

Caveats: an adapter is written as its library's documentation shows it, with as many workers as
torch gets and two batches ahead for each, not tuned further. Only what takes any Python dataset is
here; loaders with a file format of their own answer another question.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "peers.json"
WORKLOADS = "images-uint8", "tiny-numpy", "tiny-numpy-inline", "tokens", "jpeg"
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


PEERS = {
    "fastload": "fastload",
    "threads of the standard library": "benchmarks.peers:ThreadPool",
    "torchdata.nodes, threads": "benchmarks.peers:NodesThreads",
    "multiprocessing.Pool, NumPy arrays": "benchmarks.peers:ProcessPool",
    "torch, collate to NumPy arrays": "benchmarks.peers:NumpyCollate",
}
WITHOUT_WORKERS = {"multiprocessing.Pool, NumPy arrays", "torchdata.nodes, threads"}
"""What makes no sense, or is something else, without workers."""


def race(name: str, loader: str) -> dict[str, Any]:
    """The ratio to torch of one loader on each workload, None where it failed."""
    chosen = [
        workload
        for workload in WORKLOADS
        if not (workload.endswith("inline") and name in WITHOUT_WORKERS)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        options = [option for workload in chosen for option in ("--workload", workload)]
        command = [sys.executable, "-m", "fastload", "bench", "--loader", loader, *options]
        subprocess.run([*command, "--json", str(file)], cwd=ROOT, check=False)
        document = json.loads(file.read_text())
    return {
        each["workload"]: None if each["summary"] is None else each["summary"]["ratio"]["median"]
        for each in document["workloads"]
    }


def main() -> None:
    """Race all of them and write the results."""
    results = {name: race(name, loader) for name, loader in PEERS.items()}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
