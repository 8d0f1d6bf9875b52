from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from fastload.tools.bench.equality import difference


class Pair(NamedTuple):
    left: Any
    right: Any


def nested():
    return {
        "image": torch.arange(6.0).reshape(2, 3),
        "array": np.array([1.0, float("nan")]),
        "names": ["a", b"b", None],
        "pair": Pair(torch.tensor(float("nan")), 2),
    }


def test_equal_trees_have_no_difference():
    """Two batches with the same types and values are equal, NaN included."""
    assert difference(nested(), nested()) is None


@pytest.mark.parametrize(
    ("expected", "actual", "words"),
    [
        ([1], (1,), "batch is a tuple, expected a list"),
        ([1, 2], [1], "batch has the keys [0], expected [0, 1]"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "batch has the keys ['b', 'a'], expected ['a', 'b']"),
        ([1, 2], [1, 3], "batch[1] is 3, expected 2"),
        ({"x": [True]}, {"x": [1]}, "batch['x'][0] is a int, expected a bool"),
        (torch.ones(3), torch.tensor([1, 1, 2.0]), "batch differs in 1 of 3 values"),
        (np.ones(3), np.zeros(3), "batch differs in 3 of 3 values"),
    ],
)
def test_unequal_trees_are_told_apart(expected, actual, words):
    """The first difference in type, length, order or value is named with its place."""
    assert difference(expected, actual) == words


def test_other_dtype_or_shape_is_a_difference():
    """Tensors that compare equal but differ in dtype or shape are different batches."""
    assert "torch.int32" in difference(torch.ones(2), torch.ones(2, dtype=torch.int32))
    assert "(1, 2)" in difference(torch.ones(2), torch.ones(1, 2))
    assert "float32" in difference(np.ones(2), np.ones(2, dtype=np.float32))


def test_nested_tensors_are_compared_sequence_by_sequence():
    """Equal values split at other places are another batch; so is another layout."""
    halves, uneven = (
        torch.nested.nested_tensor(torch.arange(4).split(sizes), layout=torch.jagged)
        for sizes in ([2, 2], [1, 3])
    )
    assert difference(halves, halves.clone()) is None
    assert "shape (1,)" in difference(halves, uneven)
    assert "expected a NestedTensor" in difference(halves, torch.arange(4))
