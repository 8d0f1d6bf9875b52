"""Errors of collating say which sample, where in it, and what would have worked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

import fastload
from fastload import CollateError, DataLoader, Pad, default_collate, pad
from tests.contract.ways import closing


class Shuffled(Dataset):
    """The samples, under other indices: 17, 42, ..."""

    indices = (17, 42, 99)

    def __init__(self, samples: list[Any]) -> None:
        self.samples = dict(zip(self.indices, samples, strict=False))

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def error_of(samples: list[Any], collate: Any, workers: int = 0) -> tuple[BaseException, str]:
    """What a loader raises for one batch of these samples; its text with notes."""
    indices = list(Shuffled.indices[: len(samples)])
    loader = DataLoader(
        Shuffled(samples), batch_sampler=[indices], collate_fn=collate, num_workers=workers
    )
    with closing(loader), pytest.raises(Exception) as caught:
        list(loader)
    return caught.value, "\n".join([str(caught.value), *caught.value.__notes__])


MISFITS: dict[str, tuple[list[Any], Any, list[str]]] = {
    "trailing shape": (
        [{"img": {"x": torch.ones(2, 3)}}, {"img": {"x": torch.ones(1, 4)}}],
        pad,
        [
            "['img']['x']",
            "(1, 4)",
            "(2, 3)",
            "fastload.Pad(dim=(0, 1))",
            "is dataset index 42",
            "is dataset index 17",
        ],
    ),
    "dimensions": ([torch.ones(2), torch.ones(2, 3)], pad, ["(2, 3)", "(2,)", "index 42"]),
    "a number among sequences": ([torch.ones(2), torch.tensor(1.0)], pad, ["shape ()", "index 42"]),
    "length": (
        [([1], 0), ([1, 2, 3], 1)],
        Pad(max_length=2),
        ["under [0]", "length 3", "truncate=", "index 42"],
    ),
    "nothing": ([[1], None], pad, ["position 1", "NoneType", "lists of numbers", "index 42"]),
    "a string among numbers": ([[1], [1, "a"]], pad, ["position 1", "type list", "index 42"]),
    "a hole": ([[1], [1, None]], pad, ["position 1", "type list"]),
    "sparse": ([torch.ones(2), torch.ones(2).to_sparse()], pad, ["torch.sparse_coo"]),
    "on no device": ([torch.ones(2, device="meta")], pad, ["device meta", "index 17"]),
    "with a gradient": ([torch.ones(2, requires_grad=True)], pad, ["gradient"]),
    "array of strings": ([np.array(["a", "b"])], pad, ["no dtype for NumPy's dtype('<U1')"]),
    "array of another byte order": ([np.ones(2, ">f4")], pad, ["dtype('>f4')"]),
    "huge numbers": ([[1], [2**70]], pad, ["position 1", "type list"]),
    "ragged inside": ([[[1, 2], [3]]], pad, ["position 0", "type list"]),
}


@pytest.mark.parametrize("name", sorted(MISFITS))
def test_sequences_that_can_not_be_padded_are_named(name: str) -> None:
    """Path, shapes, position, dataset index and remedy."""
    samples, collate, parts = MISFITS[name]
    error, text = error_of(samples, collate)
    assert type(error) is CollateError
    for part in parts:
        assert part in text


def test_error_arrives_whole_from_a_worker() -> None:
    """With its attributes and the dataset's indices."""
    error, text = error_of([[1], [1, 2, 3]], Pad(max_length=2), workers=1)
    assert isinstance(error, CollateError)
    assert isinstance(error, RuntimeError)
    assert error.position == 1
    assert "position 1 of the batch is dataset index 42" in text


def test_remedy_of_an_error_works() -> None:
    """The dimensions it proposes are those that differ."""
    samples = [torch.ones(2, 3), torch.ones(1, 4)]
    with pytest.raises(CollateError, match=r"fastload\.Pad\(dim=\(0, 1\)\)"):
        pad(samples)
    assert Pad(dim=(0, 1))(samples).data.shape == (2, 2, 4)
    with pytest.raises(CollateError, match=r"fastload\.Pad\(dim=1\)"):
        pad([torch.ones(2, 3), torch.ones(2, 4)])


PROPOSALS: dict[str, tuple[list[Any], list[str]]] = {
    "ragged tensors": (
        [torch.ones(2), torch.ones(3)],
        ["Use collate_fn=fastload.pad,", "index 42"],
    ),
    "ragged arrays in tuples": (
        [(np.ones(2), 1), (np.ones(3), 1)],
        ["Use collate_fn=fastload.pad,", "[0]"],
    ),
    "ragged lists": ([[1, 2], [3]], ["Use collate_fn=fastload.pad,", "1 elements", "2 elements"]),
    "ragged fields": ([{"a": [1, 2]}, {"a": [3]}], ["Use collate_fn=fastload.pad_dict,", "['a']"]),
    "another dimension": (
        [torch.ones(3, 200), torch.ones(3, 224)],
        ["Use collate_fn=fastload.Pad(dim=1),", "(3, 224)", "(3, 200)"],
    ),
    "images of any size": (
        [{"image": torch.ones(3, 5, 4)}, {"image": torch.ones(3, 4, 5)}],
        ["Use collate_fn=fastload.Pad(dim=(1, 2)),", "['image']"],
    ),
    "lists of tensors": ([[torch.ones(2)], [torch.ones(2)] * 2], ["collate_fn=list"]),
    "nothing": ([{"a": 1}, {"a": None}], ["['a']", "NoneType", "collate_fn=list"]),
    "nothing at all": ([{"a": [1, None]}], ["['a'][1]", "NoneType", "index 17", "collate_fn=list"]),
    "a missing key": ([{"a": 1, "b": 2}, {"a": 1}], ["keys", "index 42", "collate_fn=list"]),
}


@pytest.mark.parametrize("name", sorted(PROPOSALS))
def test_default_collates_error_proposes_what_works(name: str) -> None:
    """It was tried on the very samples."""
    samples, parts = PROPOSALS[name]
    _, text = error_of(samples, default_collate)
    for part in parts:
        assert part in text


def test_error_itself_is_torchs() -> None:
    """Type and text; ours is a note."""
    samples = [torch.ones(2), torch.ones(3)]
    with pytest.raises(RuntimeError) as expected:
        default_collate(samples)
    error, _ = error_of(samples, default_collate, workers=1)
    assert (type(error), str(error)) == (RuntimeError, str(expected.value))


def test_user_classes_own_error_is_not_explained_away() -> None:
    """Samples that are equal have no difference to name, and nothing is proposed."""

    def collate(samples: list[Any]) -> Any:
        raise ZeroDivisionError("my own")

    error, text = error_of([[1], [2, 3]], collate)
    assert str(error) == "my own"
    assert "fastload" not in text


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([torch.ones(2), torch.ones(3)])


@pytest.mark.parametrize("workers", [0, 1])
def test_error_in_a_stream_names_the_position(workers: int) -> None:
    """There is no index to name."""
    loader = DataLoader(Stream(), batch_size=2, num_workers=workers)
    with closing(loader), pytest.raises(RuntimeError, match="equal size") as caught:
        list(loader)
    text = "\n".join(caught.value.__notes__)
    assert "the sample at position 1 of the batch has shape (3,)" in text
    assert "fastload.pad" in text


def test_structure_that_differs_is_named_beside_sequences() -> None:
    """Lengths of sequences are no difference to pad; what the default collate refused is."""
    with pytest.raises(RuntimeError, match="equal size") as caught:
        fastload.pad([([1], (1, 2)), ([1, 2], (3,))])
    notes = "".join(caught.value.__notes__)
    assert "position 1 of the batch has 1 elements under [1]" in notes
    assert "tuples and dicts hold fields" in notes


def test_sample_that_contains_itself_is_an_error_like_any_other() -> None:
    """Neither the walk nor the search for the path goes on for ever."""
    sample: list[Any] = []
    sample.append(sample)
    with pytest.raises((TypeError, RecursionError)):
        pad([sample, [1]])
    with pytest.raises(CollateError):
        pad([{"a": [1], "b": sample}, {"a": None, "b": sample}])
