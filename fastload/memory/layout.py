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

_NAMES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("bfloat16", "float16", "float32", "float64", "complex32", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
DTYPES: tuple[torch.dtype, ...] = tuple(
    getattr(torch, name) for name in _NAMES if hasattr(torch, name)
)
"""Those that lie in a slot; tensors of the few others (quantized, below a byte) are pickled."""

DTYPE_NUMBERS = {dtype: number for number, dtype in enumerate(DTYPES)}


def aligned(offset: int) -> int:
    """The next offset at which a leaf may start."""
    return (offset + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES


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
