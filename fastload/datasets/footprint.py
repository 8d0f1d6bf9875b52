"""How much of memory a sample of a dataset takes that lies there ready.

Runs in: consumer.
Takes: a dataset of a kind that ``gather`` knows.
Gives: bytes a sample, or None where a sample may have to be made or read from a file first.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset

from fastload.datasets.arrays import ArrayDataset


def sample_bytes(dataset: Any) -> int | None:
    """Bytes of one sample, the largest where they differ."""
    measure = _MEASURES.get(type(dataset))
    return None if measure is None else measure(dataset)


def _combined(combine: Any, parts: Any) -> int | None:
    sizes = [sample_bytes(part) for part in parts]
    return None if None in sizes or not sizes else int(combine(sizes))


def _of_tensor(tensor: Tensor) -> int | None:
    if tensor.dim() == 0 or tensor.device.type != "cpu" or not len(tensor):
        return None
    if tensor.untyped_storage().filename is not None:  # mapped, by torch.load or from_file
        return None
    return tensor.nbytes // len(tensor)


def _of_array(array: npt.NDArray[Any]) -> int | None:
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return None
        base = base.base
    if isinstance(base, mmap.mmap) or array.ndim == 0 or not len(array):
        return None
    return array.nbytes // len(array)


def _of_parts(parts: Any) -> int | None:
    return _combined(sum, parts.values() if isinstance(parts, dict) else parts)


_MEASURES: dict[type, Callable[[Any], int | None]] = {
    Tensor: _of_tensor,
    np.ndarray: _of_array,
    Subset: lambda dataset: sample_bytes(dataset.dataset),
    ConcatDataset: lambda dataset: _combined(max, dataset.datasets),
    TensorDataset: lambda dataset: _combined(sum, dataset.tensors),
    StackDataset: lambda dataset: _of_parts(dataset.datasets),
    ArrayDataset: lambda dataset: _of_parts(dataset.arrays),
}
