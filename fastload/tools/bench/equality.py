"""Say where two batches differ, if they do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def difference(expected: Any, actual: Any, path: str = "batch") -> str | None:
    """Return the first difference in type, shape or value, in words; None if there is none.

    Args:
        expected: a batch of the loader that is taken as right: a tree of anything.
        actual: the batch to hold against it.
        path: what to call the place, such as `batch 3`.

    Example:
        >>> difference([1, 2], [1, 3])
        'batch[1] is 3, expected 2'
    """
    if type(expected) is not type(actual):
        return f"{path} is a {type(actual).__name__}, expected a {type(expected).__name__}"
    keys = _keys(expected)
    if keys is None:
        return _leaf_difference(expected, actual, path)
    if keys != _keys(actual):
        return f"{path} has the keys {_keys(actual)}, expected {keys}"
    found = (difference(expected[key], actual[key], f"{path}[{key!r}]") for key in keys)
    return next((words for words in found if words is not None), None)


def _keys(container: Any) -> list[Any] | None:
    """Return what to index a container with, in order; None for a leaf."""
    if isinstance(container, Mapping):
        return list(container)
    if isinstance(container, Sequence) and not isinstance(container, str | bytes):
        return list(range(len(container)))
    return None


def _leaf_difference(expected: Any, actual: Any, path: str) -> str | None:
    if isinstance(expected, torch.Tensor):
        return _tensor_difference(expected, actual, path)
    if isinstance(expected, np.ndarray):
        return _array_difference(expected, actual, path)
    return None if expected == actual else f"{path} is {actual!r}, expected {expected!r}"


def _tensor_difference(expected: torch.Tensor, actual: torch.Tensor, path: str) -> str | None:
    if expected.is_nested and actual.is_nested:
        return difference(_parts(expected), _parts(actual), path)
    wanted, given = (
        f"{t.dtype} of shape {tuple(t.shape)}, {t.layout} on {t.device}" for t in (expected, actual)
    )
    if wanted != given:
        return f"{path} is {given}, expected {wanted}"
    same = torch.isclose(expected, actual, rtol=0, atol=0, equal_nan=True)
    return _count_differences(path, int((~same).sum()), expected.numel())


def _parts(nested: torch.Tensor) -> list[Any]:
    """Return what a nested tensor is made of; the size of its ragged dimension is a symbol."""
    return [nested.layout, *nested.unbind()]


def _array_difference(
    expected: npt.NDArray[Any], actual: npt.NDArray[Any], path: str
) -> str | None:
    wanted, given = (f"{a.dtype} of shape {a.shape}" for a in (expected, actual))
    if wanted != given:
        return f"{path} is {given}, expected {wanted}"
    unequal = expected != actual
    if expected.dtype.kind in "fc":
        unequal &= ~(np.isnan(expected) & np.isnan(actual))
    return _count_differences(path, int(unequal.sum()), expected.size)


def _count_differences(path: str, differing: int, total: int) -> str | None:
    return f"{path} differs in {differing} of {total} values" if differing else None
