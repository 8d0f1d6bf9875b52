"""Batches whose samples differ from one another: name → the samples of one batch."""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import nn

from .cases_objects import Point, Word
from .cases_tensors import Tagged

_f4 = np.arange(3, dtype=np.float32)
_large = np.arange(3000, dtype=np.float32)


def _columns(array: Any) -> Any:
    return np.asfortranarray(array.reshape(3, -1))


MIXED = {
    "float and int": lambda: [1.5, 2],
    "int and float": lambda: [1, 2.5],
    "int and bool": lambda: [1, True],
    "bool and int": lambda: [True, 2],
    "bool and float": lambda: [True, 0.5],
    "int and huge int": lambda: [1, 2**100],
    "huge int and float": lambda: [2**100, 0.5],
    "int and None": lambda: [1, None],
    "int and str": lambda: [1, "a"],
    "str and int": lambda: ["a", 1],
    "str and its subclass": lambda: ["a", Word("b")],
    "int and NumPy": lambda: [1, np.int64(2)],
    "NumPy and int": lambda: [np.int64(2), 1],
    "float and NumPy": lambda: [1.5, np.float32(2.5)],
    "NumPy floats": lambda: [np.float32(1), np.float64(0.1)],
    "NumPy int and float": lambda: [np.int32(1), np.float32(0.5)],
    "NumPy scalar and 0-d array": lambda: [np.float32(1), np.array(2, np.float32)],
    "tensor and number": lambda: [torch.tensor(1.0), 2.0],
    "number and tensor": lambda: [1.0, torch.tensor(2.0)],
    "tensor and array": lambda: [torch.ones(3), np.ones(3, np.float32)],
    "array and tensor": lambda: [np.ones(3, np.float32), torch.ones(3)],
    "tensor and subclass": lambda: [torch.ones(3), torch.ones(3).as_subclass(Tagged)],
    "subclass and tensor": lambda: [torch.ones(3).as_subclass(Tagged), torch.ones(3)],
    "tensor and frozen parameter": lambda: [
        torch.ones(3),
        nn.Parameter(torch.ones(3), requires_grad=False),
    ],
    "tensor and sparse": lambda: [torch.eye(2), torch.eye(2).to_sparse()],
    "float32 and float64": lambda: [torch.ones(3), torch.full((3,), 0.1, dtype=torch.float64)],
    "float64 and float32": lambda: [torch.ones(3, dtype=torch.float64), torch.ones(3)],
    "float and integer tensors": lambda: [torch.ones(3), torch.arange(3)],
    "integer and float tensors": lambda: [torch.arange(3), torch.full((3,), 0.5)],
    "bool and uint8 tensors": lambda: [torch.ones(2, dtype=torch.bool), torch.full((2,), 3).byte()],
    "tensors of other shapes": lambda: [torch.ones(3), torch.ones(4)],
    "tensors of as many elements": lambda: [torch.ones(2, 3), torch.ones(3, 2)],
    "tensors of other dimensions": lambda: [torch.ones(3), torch.ones(3, 1)],
    "empty and full tensor": lambda: [torch.ones(0), torch.ones(2)],
    "0-d and 1-d tensor": lambda: [torch.tensor(1.0), torch.ones(1)],
    "meta and dense tensor": lambda: [torch.ones(2), torch.ones(2, device="meta")],
    "contiguous and transposed tensor": lambda: [
        torch.ones(2, 2),
        torch.arange(4.0).view(2, 2).t(),
    ],
    "contiguous and expanded tensor": lambda: [torch.ones(2, 2), torch.arange(2.0).expand(2, 2)],
    "float32 and float64 arrays": lambda: [_f4, np.full(3, 0.1)],
    "float64 and float32 arrays": lambda: [np.ones(3), _f4],
    "int and float arrays": lambda: [np.arange(3), _f4],
    "arrays of other shapes": lambda: [_f4, _f4[:2]],
    "arrays of as many elements": lambda: [np.ones((2, 3)), np.ones((3, 2))],
    "arrays of other byte orders": lambda: [_f4, _f4.astype(">f4")],
    "array and its subclass": lambda: [_f4, np.ma.masked_array(_f4, [0, 1, 0])],  # type: ignore[arg-type]
    "array and steps": lambda: [_f4, np.arange(6, dtype=np.float32)[::2]],
    "array and negative steps": lambda: [_f4, _f4[::-1]],
    "array and columns": lambda: [_f4.reshape(3, 1), np.zeros((1, 3), np.float32).T],
    "rows and columns": lambda: [np.ones((3, 3)), np.asfortranarray(np.arange(9.0).reshape(3, 3))],
    "array and objects": lambda: [_f4, np.array([1, "a", None], dtype=object)],
    "large arrays": lambda: [_large, _large + 1],
    "large arrays of other types": lambda: [_large, _large.astype(np.float64) / 3],
    "large arrays of other shapes": lambda: [_large, _large[:-1]],
    "large columns": lambda: [_columns(_large), _columns(_large + 1)],
    "large rows and columns": lambda: [_large.reshape(3, -1), _columns(_large)],
    "large negative steps": lambda: [_large[::-1], _large],
    "large steps": lambda: [_large[::2], _large[1::2]],
    "large big-endian": lambda: [_large.astype(">f4"), _large.astype(">f4")],
    "large unaligned": lambda: [np.frombuffer(b"x" * 8001, np.uint8)[1:].view("<f8")] * 2,
    "large structured field": lambda: [np.zeros(900, [("a", "i1"), ("b", "<f4")])["b"]] * 2,
    "dicts of other keys": lambda: [{"a": 1}, {"b": 1}],
    "second dict has more keys": lambda: [{"a": 1}, {"a": 2, "b": 1}],
    "second dict has fewer keys": lambda: [{"a": 1, "b": 1}, {"a": 2}],
    "dicts in other order": lambda: [{"a": 1, "b": 2}, {"b": 3, "a": 4}],
    "dict and ordered dict": lambda: [{"a": 1}, OrderedDict(a=2)],
    "dict and list": lambda: [{"a": 1}, [1]],
    "list and tuple": lambda: [[1, 2], (3, 4)],
    "tuple and list": lambda: [(1, 2), [3, 4]],
    "lists of other lengths": lambda: [[1, 2], [3]],
    "namedtuples and tuples": lambda: [Point(1, 2), (3, 4)],
    "a str and a list": lambda: ["ab", ["c", "d"]],
    "nested difference": lambda: [{"a": [torch.ones(2), {"b": 1}]}, {"a": [torch.ones(3), {}]}],
    "one object twice": lambda: [_f4, _f4],
    "None": lambda: [None, None],
    "sample without length": lambda: [[1, 2], 3],
}
