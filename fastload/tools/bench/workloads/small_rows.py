"""Rows of 16 numbers, where a loader's own work is nearly all there is."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset, get_worker_info

from fastload.tools.bench.workload import Recipe

_WIDTH = 16
_POOL = 4_096


class TensorRows(Dataset[tuple[torch.Tensor, int]]):
    """Rows as tensors `(16,)` of float32, each with a label."""

    def __init__(self, pool: torch.Tensor, samples: int) -> None:
        self.pool = pool
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.pool[index % _POOL], index % 10


class ArrayRows(Dataset[tuple[npt.NDArray[np.float32], int]]):
    """Rows as NumPy arrays `(16,)` of float32, each with a label."""

    def __init__(self, pool: npt.NDArray[np.float32], samples: int) -> None:
        self.pool = pool
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], int]:
        return self.pool[index % _POOL], index % 10


class RowStream(IterableDataset[tuple[torch.Tensor, int]]):
    """Rows one after another; worker `w` of `n` yields every `n`-th, from `w` on."""

    def __init__(self, pool: torch.Tensor, samples: int) -> None:
        self.pool = pool
        self.samples = samples

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, self.samples, step):
            yield self.pool[index % _POOL], index % 10


def _make_pool() -> torch.Tensor:
    return torch.randn(_POOL, _WIDTH, generator=torch.Generator().manual_seed(0))


def tiny_tensor(samples: int) -> Recipe:
    """Rows as tensors."""
    return Recipe(TensorRows(_make_pool(), samples))


def tiny_numpy(samples: int) -> Recipe:
    """Rows as NumPy arrays."""
    return Recipe(ArrayRows(_make_pool().numpy(), samples))


def table(samples: int) -> Recipe:
    """A TensorDataset of rows and labels, shuffled."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(samples, _WIDTH, generator=generator)
    return Recipe(TensorDataset(rows, torch.arange(samples) % 10), {"shuffle": True})


def stream(samples: int) -> Recipe:
    """Rows from an iterable dataset."""
    return Recipe(RowStream(_make_pool(), samples))
