"""Six loads whose bottleneck is known, for either loader: ``make("collate", "torch")``.

Each is slow in one place only and by a known amount.
"""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

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


def make(name: str, kind: str, workers: int = 2) -> Any:
    """The loader of one load."""
    case = CASES[name]
    make_loader: Any = fastload.DataLoader if kind == "fastload" else torch.utils.data.DataLoader
    return make_loader(
        case.dataset(),
        batch_size=case.batch_size,
        num_workers=workers,
        collate_fn=case.collate_fn,
        persistent_workers=workers > 0,
    )
