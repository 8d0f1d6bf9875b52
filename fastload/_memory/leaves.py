"""Look at the tensors and arrays of a batch, whatever contains them.

Runs in: consumer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


def leaves(batch: Any) -> Iterator[Any]:
    """Yield the tensors and arrays in dicts, lists, tuples and attributes of plain objects.

    A container is looked into once, although it may hold itself or occur several times.
    """
    seen: dict[int, Any] = {}  # with the containers, so that no number is given again
    ahead = [batch]
    while ahead:
        each = ahead.pop()
        if isinstance(each, torch.Tensor | np.ndarray):
            yield each
        elif id(each) not in seen:
            seen[id(each)] = each
            ahead += reversed(list(_children(each)))


def _children(container: Any) -> Any:
    """Return what a container holds, and nothing for whatever is no container."""
    if isinstance(container, Mapping):
        return container.values()
    if isinstance(container, list | tuple):
        return container
    if hasattr(container, "__dict__") and not isinstance(container, type):
        return vars(container).values()
    return ()


def size_bytes(batch: Any) -> int:
    """Return the bytes of all leaves of a batch."""
    return sum(int(leaf.nbytes) for leaf in leaves(batch))


def has_wide_numbers(batch: Any) -> bool:
    """Return whether most bytes are in floating-point numbers of 32 or 64 bits."""
    wide = sum(int(leaf.nbytes) for leaf in leaves(batch) if _is_wide(leaf))
    return 2 * wide > size_bytes(batch) > 0


def _is_wide(leaf: Any) -> bool:
    if isinstance(leaf, torch.Tensor):
        return leaf.is_floating_point() and leaf.element_size() >= 4
    return bool(leaf.dtype.kind == "f" and leaf.dtype.itemsize >= 4)
