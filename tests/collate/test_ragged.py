"""What fastload.ragged makes of sequences: torch's jagged nested tensors."""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from fastload import CollateError, Ragged, ragged

from .samples import DTYPES, assert_equal, sequence

LENGTHS = [3, 0, 5, 1]


@pytest.mark.parametrize("feature", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sequences_of_any_dtype_are_joined(dtype: torch.dtype, feature: tuple[int, ...]) -> None:
    """Unbound again, they are the samples."""
    samples = [sequence(length, dtype, feature) for length in LENGTHS]
    nested = ragged(samples)
    assert nested.layout == torch.jagged
    for got, expected in zip(nested.unbind(), samples, strict=True):
        assert_equal(got, expected)


def test_result_is_the_one_that_torch_makes() -> None:
    """Of the same tensors."""
    samples = [torch.randn(length, 4) for length in LENGTHS]
    ours, theirs = ragged(samples), torch.nested.nested_tensor(samples, layout=torch.jagged)
    assert_equal(ours.values(), theirs.values())
    assert_equal(ours.offsets(), theirs.offsets())
    assert (ours._get_min_seqlen(), ours._get_max_seqlen()) == (0, 5)
    padded = torch.nested.to_padded_tensor
    assert_equal(padded(ours, 0.0), padded(theirs, 0.0))


def test_lists_and_arrays_are_sequences_too() -> None:
    """With a dtype of choice."""
    nested = ragged([[1, 2], [], [3]], dtype=torch.int32)
    assert (nested.values().tolist(), nested.offsets().tolist()) == ([1, 2, 3], [0, 2, 2, 3])
    assert nested.dtype == torch.int32
    assert ragged([np.arange(2), np.arange(0)]).values().tolist() == [0, 1]


def test_sequences_in_tuples_and_dicts_are_joined_and_the_rest_is_stacked() -> None:
    """Named fields alone, if so told."""
    nested, labels = ragged([([1, 2], 0), ([3], 1)])
    assert (nested.is_nested, labels.tolist()) == (True, [0, 1])
    batch = ragged([{"a": [1], "b": np.ones(2)}, {"a": [1, 2], "b": np.ones(2)}], fields=["a"])
    assert (batch["a"].is_nested, batch["b"].shape) == (True, (2, 2))


def test_empty_sequences_alone_are_joined() -> None:
    """To a nested tensor without elements."""
    assert [len(tensor) for tensor in ragged([torch.empty(0, 3)] * 2).unbind()] == [0, 0]


def test_settings_can_be_sent_to_a_worker() -> None:
    """As an object and in a partial."""
    for collate in (Ragged(torch.float16), functools.partial(ragged, dtype=torch.float16)):
        nested: Tensor = pickle.loads(pickle.dumps(collate))([[1, 2], [3]])
        assert nested.dtype == torch.float16


def test_samples_that_do_not_fit_are_named() -> None:
    """The dimension that differs is not the first."""
    with pytest.raises(CollateError, match=r"position 1 of the batch has shape \(1, 3\)"):
        ragged([torch.ones(1, 2), torch.ones(1, 3)])
