"""Loads for either loader: ``make("collate", "torch")``.

``CASES`` are six of which each is slow in one place only and by a known amount. ``REALISTIC`` are
six more that are as real datasets are, on which predictions of every setting are judged.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
import zlib
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.data

import fastload

STEP_MS = 2.0


def compute(milliseconds: float) -> None:
    """Use this much CPU time of this thread, however busy the machine is."""
    end_ns = time.thread_time_ns() + int(milliseconds * 1e6)
    while time.thread_time_ns() < end_ns:
        pass


class _Load:
    samples = 4_000

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(16)


class Computing(_Load):
    """1 ms of CPU time a sample."""

    def __getitem__(self, index: int) -> Any:
        compute(1.0)
        return torch.zeros(16)


class Waiting(_Load):
    """3 ms of waiting a sample, as for a file on the network."""

    def __getitem__(self, index: int) -> Any:
        threading.Event().wait(0.003)
        return torch.zeros(16)


class Huge(_Load):
    """A ready batch of 24 MB: nothing to load, all to hand over."""

    samples = 400

    def __init__(self) -> None:
        self.batch = torch.zeros(6_000_000)

    def __getitem__(self, index: int) -> Any:
        return self.batch


class Straggling(_Load):
    """0.2 ms of waiting; one sample in a hundred takes 150 ms."""

    def __getitem__(self, index: int) -> Any:
        threading.Event().wait(0.15 if index % 100 == 57 else 0.0002)
        return torch.zeros(16)


def slow_collate(samples: list[Any]) -> Any:
    """12 ms of CPU time."""
    compute(12.0)
    return torch.stack(samples)


class Case(NamedTuple):
    """A load, how it is batched, the step that goes with it, and what the verdict must be."""

    dataset: type[_Load]
    batch_size: int | None
    step_ms: float
    culprit: str
    collate_fn: Any = None


CASES = {
    "computing": Case(Computing, 8, STEP_MS, "fetch-cpu"),
    "waiting": Case(Waiting, 8, STEP_MS, "fetch-wait"),
    "collate": Case(_Load, 8, STEP_MS, "collate", slow_collate),
    "hand-off": Case(Huge, None, 0.5, "hand-off"),
    "stragglers": Case(Straggling, 8, STEP_MS, "stragglers"),
    "consumer": Case(_Load, 8, 100.0, "consumer"),
}


class Objects(_Load):
    """A sample is a dict of twenty small tensors, a number and a string; a batch is their list."""

    def __getitem__(self, index: int) -> Any:
        boxes = {f"box {number}": torch.full((4,), float(number)) for number in range(20)}
        return {**boxes, "index": index, "name": f"sample {index}"}


class RarelySlow(_Load):
    """0.5 ms of waiting; one sample in four hundred, at no regular distance, takes 0.3 s."""

    samples = 20_000

    def __getitem__(self, index: int) -> Any:
        is_slow = zlib.crc32(index.to_bytes(4, "little")) % 400 == 0
        threading.Event().wait(0.3 if is_slow else 0.0005)
        return torch.zeros(16)


class Words(_Load):
    """Lists of 20 to 200 numbers."""

    def __getitem__(self, index: int) -> Any:
        return list(range(20 + index * 37 % 181))


class Compressed(_Load):
    """An image of 150 KB, decompressed."""

    def __init__(self) -> None:
        noise = np.random.default_rng(0).integers(0, 16, 150_528, dtype=np.uint8)
        self.content = zlib.compress(noise.tobytes(), 1)

    def __getitem__(self, index: int) -> Any:
        pixels = np.frombuffer(zlib.decompress(self.content), np.uint8)
        return torch.from_numpy(pixels.reshape(3, 224, 224).copy())


class Remote(_Load):
    """Waiting as for a network: 4 ms on average, exponentially distributed, and some decoding.

    Samples wait independently of each other. (By a CRC they would not: those of indices in a row
    are spread so evenly that batches wait alike, as nothing does in a network.)
    """

    def __getitem__(self, index: int) -> Any:
        digest = hashlib.blake2b(index.to_bytes(4, "little"), digest_size=4).digest()
        chance = (int.from_bytes(digest, "little") + 1) / (1 << 32)
        threading.Event().wait(-0.004 * math.log(chance))
        compute(0.3)
        return torch.zeros(256)


class Images(_Load):
    """Float images of 600 KB, made by one operation."""

    def __getitem__(self, index: int) -> Any:
        return torch.full((3, 224, 224), float(index))


def python_pad(samples: list[Any]) -> Any:
    """Pad lists in Python, number by number."""
    longest = max(map(len, samples))
    rows = []
    for sample in samples:
        row = [0] * longest
        for place, number in enumerate(sample):
            row[place] = number
        rows.append(row)
    return torch.tensor(rows), torch.tensor([len(sample) for sample in samples])


REALISTIC = {
    "small objects": Case(Objects, 32, STEP_MS, "hand-off", list),
    "rarely slow": Case(RarelySlow, 8, STEP_MS, "stragglers"),
    "collate in Python": Case(Words, 256, STEP_MS, "collate", python_pad),
    "compressed": Case(Compressed, 16, STEP_MS, "fetch-cpu"),
    "remote": Case(Remote, 16, STEP_MS, "fetch-wait"),
    "images": Case(Images, 32, STEP_MS, "hand-off"),
}


def make(name: str, kind: str, workers: int = 2) -> Any:
    """The loader of one load."""
    case = {**CASES, **REALISTIC}[name]
    make_loader: Any = fastload.DataLoader if kind == "fastload" else torch.utils.data.DataLoader
    return make_loader(
        case.dataset(),
        batch_size=case.batch_size,
        num_workers=workers,
        collate_fn=case.collate_fn,
        persistent_workers=workers > 0,
    )
