"""How leaves lie in a slot: what a worker writes down and the consumer reads.

A layout is a tuple of leaves. A leaf is a plain tuple, because one is sent for each tensor of
each batch whose layout differs from the one before:

    (dtype, offset, shape, strides, requires_grad)

``dtype`` is a number (a torch dtype: the leaf is a tensor) or a string (a NumPy dtype: an array).
``strides`` is None for a contiguous leaf, in elements for tensors and in bytes for arrays.
"""

from __future__ import annotations

import torch

Shape = tuple[int, ...]
Leaf = tuple[int | str, int, Shape, Shape | None, bool]
Layout = tuple[Leaf, ...]

ALIGNMENT_BYTES = 64

_QUANTIZED = {torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4}

DTYPES: tuple[torch.dtype, ...] = tuple(
    sorted(
        {value for value in vars(torch).values() if isinstance(value, torch.dtype)} - _QUANTIZED,
        key=str,
    )
)
"""Those that lie in a slot; a quantized tensor is more than its bytes and is pickled."""

DTYPE_NUMBERS = {dtype: number for number, dtype in enumerate(DTYPES)}

CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes an element: what carries a dtype with which some operation can't be done."""


def aligned(offset: int) -> int:
    """The next offset at which a leaf may start."""
    return (offset + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES


def row_strides(shape: Shape) -> Shape:
    """Those that torch gives a new tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def dense_strides(shape: Shape, strides: Shape) -> bool:
    """Whether the strides are those of a permuted contiguous tensor: no gaps, no overlap."""
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
