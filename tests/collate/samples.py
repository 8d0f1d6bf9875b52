"""Samples of every dtype, and straightforward implementations to compare with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DTYPES = [
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
]


def sequence(
    length: int, dtype: torch.dtype = torch.int64, feature: tuple[int, ...] = ()
) -> Tensor:
    """A tensor ``(length, *feature)`` without a zero."""
    count = torch.Size([length, *feature]).numel()
    return (torch.arange(count) % 100 + 1).reshape(length, *feature).to(dtype)


def padded_by_hand(
    tensors: list[Tensor], value: Any = 0, side: str = "right", length: int | None = None
) -> Tensor:
    """Element by element, from the definition."""
    longest = max(len(tensor) for tensor in tensors) if length is None else length
    feature = tensors[0].shape[1:]
    rows = []
    for tensor in tensors:
        padding = torch.full((longest - len(tensor), *feature), value, dtype=tensor.dtype)
        parts = [bits(tensor), bits(padding)] if side == "right" else [bits(padding), bits(tensor)]
        rows.append(torch.cat(parts))
    return torch.stack(rows).view(tensors[0].dtype)


def bits(tensor: Tensor) -> Tensor:
    """The same memory as integers: torch can't join or compare every dtype."""
    carriers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(carriers.get(tensor.dtype.itemsize, torch.complex128))


def assert_equal(got: Tensor, expected: Tensor) -> None:
    """Same dtype, shape and bits."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert torch.equal(bits(got), bits(expected)), f"{got}, not {expected}"
