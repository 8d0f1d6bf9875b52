"""Equality to the last bit: exact types, dtypes, shapes and values, all the way down."""

import dataclasses
import enum
import struct
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


def assert_same(got: Any, expected: Any, path: str = "batch") -> None:
    """Fail with the path of the first difference."""
    if type(got) is not type(expected):
        raise AssertionError(f"{path}: {type(got)} instead of {type(expected)}: {got!r:.300}")
    for kinds, compare in _COMPARISONS:
        if isinstance(expected, kinds):
            compare(got, expected, path)
            return
    if dataclasses.is_dataclass(expected) or (
        type(expected).__eq__ is object.__eq__ and hasattr(expected, "__dict__")  # type: ignore[comparison-overlap, unreachable]
    ):
        _compare_attributes(got, expected, path)
    else:
        _compare_values(got, expected, path)


def _compare_values(got: Any, expected: Any, path: str) -> None:
    assert got == expected, f"{path}: {got!r} instead of {expected!r}"


def _compare_floats(got: float, expected: float, path: str) -> None:
    assert struct.pack("d", got) == struct.pack("d", expected), f"{path}: {got}, not {expected}"


def _compare_complex(got: complex, expected: complex, path: str) -> None:
    assert_same([got.real, got.imag], [expected.real, expected.imag], path)


def _compare_mappings(got: Any, expected: Any, path: str) -> None:
    assert list(got) == list(expected), f"{path}: keys {list(got)} instead of {list(expected)}"
    for key in expected:
        assert_same(got[key], expected[key], f"{path}[{key!r}]")
    if isinstance(expected, defaultdict):
        assert got.default_factory is expected.default_factory, path
    _compare_attributes(got, expected, path)


def _compare_sequences(got: Any, expected: Any, path: str) -> None:
    assert len(got) == len(expected), f"{path}: {len(got)} items instead of {len(expected)}"
    for position, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert_same(one, other, f"{path}[{position}]")
    if isinstance(expected, deque):
        assert got.maxlen == expected.maxlen, path
    _compare_attributes(got, expected, path)


def _compare_attributes(got: Any, expected: Any, path: str) -> None:
    names = [each.name for each in dataclasses.fields(expected)] if _has_fields(expected) else []
    names += [name for name in getattr(expected, "__dict__", ()) if name not in names]
    for name in names:
        assert_same(getattr(got, name), getattr(expected, name), f"{path}.{name}")


def _has_fields(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _compare_tensors(got: torch.Tensor, expected: torch.Tensor, path: str) -> None:
    for name in ("dtype", "layout", "device", "requires_grad", "is_nested", "is_quantized"):
        one, other = getattr(got, name), getattr(expected, name)
        assert one == other, f"{path}.{name}: {one} instead of {other}"
    if expected.is_nested:
        assert_same(list(got.unbind()), list(expected.unbind()), path)
        return
    assert got.shape == expected.shape, f"{path}: {got.shape} instead of {expected.shape}"
    if not expected.is_meta:
        _compare_tensor_values(got, expected, path)


def _compare_tensor_values(got: torch.Tensor, expected: torch.Tensor, path: str) -> None:
    if expected.is_quantized:
        assert got.qscheme() == expected.qscheme(), path
        assert torch.equal(got.int_repr(), expected.int_repr()), path
        assert torch.equal(got.dequantize(), expected.dequantize()), path
    elif expected.layout == torch.sparse_coo:
        assert got.is_coalesced() == expected.is_coalesced(), path
        assert torch.equal(got._indices(), expected._indices()), path
        assert torch.equal(got._values(), expected._values()), path
    elif expected.layout != torch.strided:
        assert torch.equal(got.to_dense(), expected.to_dense()), path
    else:
        assert _bits(got) == _bits(expected), f"{path}: {got} instead of {expected}"


def _bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    flat = plain.contiguous().as_strided((plain.numel(),), (1,))
    return flat.view(torch.uint8).numpy().tobytes()


def _compare_arrays(got: Any, expected: Any, path: str) -> None:
    assert got.dtype == expected.dtype, f"{path}: {got.dtype} instead of {expected.dtype}"
    assert got.shape == expected.shape, f"{path}: {got.shape} instead of {expected.shape}"
    if expected.dtype.hasobject:
        assert_same(np.asarray(got).tolist(), np.asarray(expected).tolist(), path)
    elif expected.dtype.char in "gG":  # Their padding is not part of the value.
        assert np.array_equal(got, expected, equal_nan=True), f"{path}: {got}, not {expected}"
    else:
        assert got.tobytes() == expected.tobytes(), f"{path}: {got} instead of {expected}"


# In this order: NumPy's scalars are Python's too, and strings are sequences.
_COMPARISONS: tuple[tuple[Any, Callable[[Any, Any, str], None]], ...] = (
    (torch.Tensor, _compare_tensors),
    ((np.ndarray, np.generic), _compare_arrays),
    ((enum.Enum, type, str, bytes, bytearray, range), _compare_values),
    (SimpleNamespace, _compare_attributes),
    (float, _compare_floats),
    (complex, _compare_complex),
    (Mapping, _compare_mappings),
    ((Sequence, deque), _compare_sequences),
)
