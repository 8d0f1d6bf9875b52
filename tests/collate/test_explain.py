"""An error of the default collate says which key, which shapes and which sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from fastload import DataLoader
from fastload.collate.explain import explain

DIFFERENT = {
    "shape under a key": (
        [{"image": {"x": torch.zeros(3, 4)}}, {"image": {"x": torch.zeros(3, 5)}}],
        ["['image']['x']", "(3, 5)", "(3, 4)", "index 42", "index 17"],
    ),
    "shape of an array in a tuple": (
        [(np.zeros(2), 1), (np.zeros(3), 1)],
        ["[0]", "(3,)", "(2,)", "index 42"],
    ),
    "missing key": ([{"a": 1, "b": 2}, {"a": 1}], ["[\"'a'\"]", "index 42"]),
    "length": ([[1, 2], [1]], ["1 elements", "2 elements"]),
    "none": ([{"a": 1}, {"a": None}], ["['a']", "NoneType", "a number"]),
    "shape alone": ([torch.zeros(2), torch.zeros(1)], ["has shape (1,), the one"]),
}


@pytest.mark.parametrize("name", sorted(DIFFERENT))
def test_difference_is_named_with_path_and_index(name: str) -> None:
    """The path, both sides and the dataset index of the sample that differs."""
    samples, expected = DIFFERENT[name]
    sentence = explain(samples, [17, 42])
    assert sentence is not None
    for part in expected:
        assert part in sentence


def test_equal_samples_have_no_explanation() -> None:
    """Whatever went wrong, it was not a difference between them."""
    assert explain([{"a": [1, "x"]}, {"a": [2.5, "y"]}], [0, 1]) is None


class Ragged(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        return {"tokens": torch.zeros(3 + (index == 2))}


@pytest.mark.parametrize("workers", [0, 2])
def test_error_of_a_loader_carries_the_explanation(workers: int) -> None:
    """torch's error in type and text; ours is a note below it."""
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size") as caught:
        list(DataLoader(Ragged(), batch_size=4, num_workers=workers))
    notes = "\n".join(caught.value.__notes__)
    assert "dataset index 2 has shape (4,) under ['tokens']" in notes
