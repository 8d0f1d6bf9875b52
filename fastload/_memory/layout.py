"""The layout of a batch: where in a slot each leaf lies, written by a worker, read by the consumer.

Runs in: consumer and workers.

A layout is a tuple of leaves. A leaf is a plain tuple, because one is sent for each tensor of each
batch whose layout differs from the one before:

    (dtype, offset, shape, strides, requires_grad)

``dtype`` is a number (of a torch dtype: the leaf is a tensor) or a string (of a NumPy dtype: it is
an array). ``offset`` is in bytes from the beginning of the slot. ``strides`` is None for a
contiguous leaf; otherwise it is in elements for tensors and in bytes for arrays.
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
"""These dtypes lie in a slot; a quantized tensor is more than its bytes and is pickled."""

DTYPE_NUMBERS = {dtype: number for number, dtype in enumerate(DTYPES)}

CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Maps bytes an element to the dtype that stands in where an operation lacks the tensor's own."""


def aligned(offset: int) -> int:
    """Return the next offset at which a leaf may start."""
    return (offset + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES


def row_strides(shape: Shape) -> Shape:
    """Return the strides in elements that torch gives a new contiguous tensor of this shape."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def dense_strides(shape: Shape, strides: Shape) -> bool:
    """Return whether strides are those of a permuted contiguous tensor: no gaps, no overlap."""
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
