"""Datasets and small functions that tests share; all of them can be pickled."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info


class Numbers(Dataset[Any]):
    """Sample k is the number k."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return int(index)


class Stamped(Dataset[Any]):
    """Sample k is a tensor of k's, so that memory written too early is always seen."""

    def __init__(
        self, length: int, shape: tuple[int, ...] = (16,), dtype: Any = torch.float32
    ) -> None:
        self.length, self.shape, self.dtype = length, shape, dtype

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return torch.full(self.shape, index, dtype=self.dtype)


class Made(Dataset[Any]):
    """Sample k is what a function makes of k."""

    def __init__(self, length: int, make: Callable[[Any], Any]) -> None:
        self.length, self.make = length, make

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Draws(Dataset[Any]):
    """Sample k is three random numbers, from torch, NumPy and Python, whatever k is."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return torch.rand(2), np.random.rand(2), random.random()


class Stream(IterableDataset[Any]):
    """The numbers below a length; every worker gives all of them, or its own share."""

    def __init__(self, length: int, *, is_shared_out: bool = False) -> None:
        self.length, self.is_shared_out = length, is_shared_out

    def __iter__(self) -> Any:
        worker = get_worker_info()
        if self.is_shared_out and worker is not None:
            return iter(range(worker.id, self.length, worker.num_workers))
        return iter(range(self.length))


class SizedStream(Stream):
    """A stream that claims a length."""

    def __len__(self) -> int:
        return self.length


class UnevenStream(IterableDataset[Any]):
    """Worker w gives `lengths[w]` numbers, from 100 * w on."""

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self.lengths = lengths

    def __iter__(self) -> Any:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        return iter(range(100 * number, 100 * number + self.lengths[number]))


def keep(samples: Any) -> Any:
    """Collate nothing: the batch is the list of samples."""
    return samples


def numbers_of(batches: Any) -> list[Any]:
    """Batches of numbers as plain lists."""
    return [b.tolist() if isinstance(b, torch.Tensor) else b for b in batches]
