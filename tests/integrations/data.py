"""Datasets and loops that the tests of trainers share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

LENGTH, BATCH, FEATURES = 22, 4, 5


class Numbers(Dataset[Any]):
    """Sample k is the number k; says which were loaded in this process."""

    def __init__(self, length: int = LENGTH) -> None:
        self.length = length
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        self.loaded.append(index)
        return index


class Stream(IterableDataset[Any]):
    """The numbers below a length."""

    def __init__(self, length: int = LENGTH) -> None:
        self.length = length

    def __iter__(self) -> Any:
        return iter(range(self.length))


def regression(length: int = LENGTH) -> TensorDataset:
    """Points of a noisy line, the same in each process."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(length, FEATURES, generator=generator)
    y = x.sum(1, keepdim=True) + 0.1 * torch.randn(length, 1, generator=generator)
    return TensorDataset(x, y)


def make_model() -> nn.Module:
    """A small network with the same weights each time."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 1))


def rows(loader: Any) -> list[Any]:
    """Batches of numbers as plain lists."""
    return [batch.tolist() for batch in loader]
