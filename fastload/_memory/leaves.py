"""Look at the tensors and arrays of a batch, whatever contains them.

Runs in: consumer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


def leaves(batch: Any) -> Iterator[Any]:
    """Tensors and arrays in dicts, lists, tuples and attributes of plain objects."""
    if isinstance(batch, torch.Tensor | np.ndarray):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from leaves(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from leaves(value)
    elif hasattr(batch, "__dict__") and not isinstance(batch, type):
        for value in vars(batch).values():
            yield from leaves(value)


def size_bytes(batch: Any) -> int:
    """Bytes in all of them."""
    return sum(int(leaf.nbytes) for leaf in leaves(batch))


def has_wide_numbers(batch: Any) -> bool:
    """Whether most bytes are in floating-point numbers of 32 or 64 bits."""
    wide = sum(int(leaf.nbytes) for leaf in leaves(batch) if _is_wide(leaf))
    return 2 * wide > size_bytes(batch) > 0


def _is_wide(leaf: Any) -> bool:
    if isinstance(leaf, torch.Tensor):
        return leaf.is_floating_point() and leaf.element_size() >= 4
    return bool(leaf.dtype.kind == "f" and leaf.dtype.itemsize >= 4)
