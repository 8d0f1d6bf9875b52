"""A dataset of arrays and tensors of equal length.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an index.
Gives: row ``index`` of each array, as a tuple or a dict.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

Columns = tuple[Any, ...] | dict[Any, Any]


class ArrayDataset(Dataset[Any]):
    """A dataset whose sample ``i`` is row ``i`` of each array or tensor.

    A loader reads a batch with one index operation an array. Arrays on disk (``np.memmap``) are
    read where they lie; a worker that is started with spawn or forkserver maps the file again
    instead of getting a copy.

    Args:
        *arrays: NumPy arrays or tensors with the same first dimension; a sample is a tuple. Or
            one mapping of names to such; a sample is a dict.

    Raises:
        ValueError: Lengths differ, or there is no array.
        TypeError: Something is neither an array nor a tensor with at least one dimension.

    Example:
        >>> import numpy as np
        >>> dataset = ArrayDataset({"x": np.zeros((4, 2)), "y": np.arange(4)})
        >>> len(dataset), dataset[3]["y"]
        (4, np.int64(3))
    """

    def __init__(self, *arrays: Any) -> None:
        named = len(arrays) == 1 and isinstance(arrays[0], Mapping)
        self.arrays: Columns = dict(arrays[0]) if named else arrays
        lengths = {key: _length(key, array) for key, array in _items(self.arrays)}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"the arrays of a dataset have the same first dimension, but got {lengths}"
                if lengths
                else "a dataset needs at least one array"
            )
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.arrays, dict):
            return {key: array[index] for key, array in self.arrays.items()}
        return tuple(array[index] for array in self.arrays)

    def __getstate__(self) -> dict[str, Any]:
        packed = {key: _pack(array) for key, array in _items(self.arrays)}
        is_named = isinstance(self.arrays, dict)
        return {**vars(self), "arrays": packed if is_named else tuple(packed.values())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        opened = {key: _unpack(array) for key, array in _items(self.arrays)}
        self.arrays = opened if isinstance(self.arrays, dict) else tuple(opened.values())


class _File(tuple[Any, ...]):
    """The arguments of ``np.memmap`` with which an array is mapped again."""

    __slots__ = ()


def _items(arrays: Columns) -> Any:
    return arrays.items() if isinstance(arrays, dict) else enumerate(arrays)


def _length(key: Any, array: Any) -> int:
    if not isinstance(array, np.ndarray | Tensor) or array.ndim == 0:
        shape = f" of shape {tuple(array.shape)}" if hasattr(array, "shape") else ""
        raise TypeError(
            f"array {key!r} is a {type(array).__name__}{shape}; expected a NumPy array or a "
            f"tensor with at least one dimension"
        )
    return len(array)


def _pack(array: Any) -> Any:
    # A slice of a mapped array has the whole one's offset: only the whole one can be mapped again.
    is_whole = type(array) is np.memmap and isinstance(array.base, mmap.mmap)
    if not is_whole or array.filename is None or array.mode == "c":
        return array
    order = "C" if array.flags.c_contiguous else "F"
    return _File((str(array.filename), array.dtype, "r", array.offset, array.shape, order))


def _unpack(array: Any) -> Any:
    return np.memmap(*array) if isinstance(array, _File) else array
