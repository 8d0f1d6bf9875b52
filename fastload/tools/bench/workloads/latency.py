"""Samples that wait, as those of an object store or of a server do."""

import time
from typing import Any

import torch
from torch.utils.data import Dataset

from fastload.tools.bench.workload import Recipe

LATENCY_S = 0.02
AT_A_TIME = 16


class Requests(Dataset[tuple[torch.Tensor, int]]):
    """16 float32 and a label, each of which comes after a while.

    Args:
        samples: how many there are.
        latency_s: seconds until one of them is there.
    """

    def __init__(self, samples: int, latency_s: float = LATENCY_S) -> None:
        self.rows = torch.randn(1_024, 16, generator=torch.Generator().manual_seed(0))
        self.samples = samples
        self.latency_s = latency_s

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(self.latency_s)
        return self.rows[index % len(self.rows)], index % 10


def usual(samples: int) -> Recipe:
    """One sample at a time in each worker."""
    return Recipe(Requests(samples))


def own(samples: int) -> Recipe:
    """Several samples at a time in each worker."""
    options: dict[str, Any] = {"concurrent_samples": AT_A_TIME}
    return Recipe(Requests(samples), options)
