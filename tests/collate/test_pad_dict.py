"""What fastload.pad_dict makes of dicts of ragged and other fields."""

from __future__ import annotations

import functools
import pickle
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

import fastload
from fastload import CollateError, Pad, PadDict, pad_dict

from .samples import assert_equal

SAMPLES = [
    {"ids": [1, 2, 3], "labels": [1, 2, 3], "score": 0.5, "text": "abc", "words": ["a", "b"]},
    {"ids": [4], "labels": [4], "score": 1.5, "text": "d", "words": []},
]


def test_sequences_are_padded_and_all_else_is_collated_as_ever() -> None:
    """One flat dict in the order of the samples; lengths follow their field."""
    batch = pad_dict(SAMPLES)
    assert list(batch) == [
        "ids",
        "ids_lengths",
        "labels",
        "labels_lengths",
        "score",
        "text",
        "words",
    ]
    assert batch["ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch["ids_lengths"].tolist() == [3, 1]
    assert_equal(batch["score"], torch.tensor([0.5, 1.5], dtype=torch.float64))
    assert batch["text"] == ["abc", "d"]
    assert batch["words"] == [["a", "b"], []]


def test_fields_have_settings_of_their_own() -> None:
    """The usual case of a language model: a mask under the model's name, labels of -100."""
    collate = PadDict(
        {"ids": Pad(value=9, returns="mask", side="left"), "labels": Pad(-100, returns="data")},
        mask="attention_mask",
    )
    batch = collate(SAMPLES)
    assert list(batch) == ["ids", "attention_mask", "labels", "score", "text", "words"]
    assert batch["ids"].tolist() == [[1, 2, 3], [9, 9, 4]]
    assert batch["attention_mask"].tolist() == [[True] * 3, [False, False, True]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]


def test_default_holds_for_fields_that_are_not_named() -> None:
    """Other settings for all, or none: then they are stacked."""
    batch = pad_dict(SAMPLES, {"labels": Pad(-100)}, default=Pad(multiple_of=8))
    assert (batch["ids"].shape, batch["labels"].shape) == ((2, 8), (2, 3))
    samples = [{"image": torch.ones(3, 2), "ids": [1]}, {"image": torch.ones(3, 2), "ids": [1, 2]}]
    batch = pad_dict(samples, {"ids": Pad()}, default=None, lengths="{}_length")
    assert list(batch) == ["image", "ids", "ids_length"]
    assert batch["image"].shape == (2, 3, 2)


def test_sequences_deeper_in_a_sample_are_padded_in_their_place() -> None:
    """With their lengths beside them, as fastload.pad does it."""
    batch = pad_dict([{"a": {"x": [1, 2], "y": 0}}, {"a": {"x": [3], "y": 1}}])
    assert batch["a"]["x"].data.tolist() == [[1, 2], [3, 0]]
    assert batch["a"]["x"].lengths.tolist() == [2, 1]
    assert batch["a"]["y"].tolist() == [0, 1]


def test_order_of_keys_in_a_sample_does_not_matter() -> None:
    """The first sample's order is the batch's; any mapping will do."""
    samples = [{"a": [1], "b": 1}, MappingProxyType({"b": 2, "a": [1, 2]})]
    batch = pad_dict(samples)
    assert list(batch) == ["a", "a_lengths", "b"]
    assert batch["b"].tolist() == [1, 2]


def test_settings_can_be_sent_to_a_worker() -> None:
    """As an object and in a partial."""
    fields = {"labels": Pad(-100)}
    for collate in (PadDict(fields), functools.partial(pad_dict, fields=fields)):
        assert pickle.loads(pickle.dumps(collate))(SAMPLES)["labels"].tolist()[1] == [4, -100, -100]


WRONG_SAMPLES: dict[str, tuple[list[Any], dict[str, Any], list[str]]] = {
    "not dicts": ([[1], [2]], {}, ["takes dicts", "a list", "collate_fn=fastload.pad"]),
    "a key is missing": (
        [{"a": 1, "b": 2}, {"a": 1}],
        {},
        ["position 1", "['a']", "['a', 'b']"],
    ),
    "another key": ([{"a": 1}, {"b": 1}], {}, ["position 1", "['b']", "['a']"]),
    "a number among dicts": ([{"a": 1}, 3], {}, ["position 1", "a int", "fields []"]),
    "no such field": ([{"a": [1]}], {"fields": {"b": Pad()}}, ["no field 'b'", "['a']"]),
    "no sequence": ([{"a": 1}], {"fields": {"a": Pad()}}, ["under ['a']", "no sequence"]),
    "one name twice": ([{"a": [1], "a_lengths": 1}], {}, ["'a_lengths'", "lengths="]),
    "one mask for two": (
        [{"a": [1], "b": [1]}],
        {"default": Pad(returns="mask"), "mask": "mask"},
        ["'mask'"],
    ),
    "other shapes": (
        [{"a": torch.ones(1, 3)}, {"a": torch.ones(1, 4)}],
        {},
        ["position 1", "(1, 4)", "(1, 3)", "under ['a']", "Pad(dim=1)"],
    ),
}


@pytest.mark.parametrize("name", sorted(WRONG_SAMPLES))
def test_samples_that_do_not_fit_are_named(name: str) -> None:
    """What, where, and what to do."""
    samples, settings, parts = WRONG_SAMPLES[name]
    with pytest.raises(CollateError) as caught:
        pad_dict(samples, **settings)
    for part in parts:
        assert part in str(caught.value)


def test_default_collates_own_error_says_which_field() -> None:
    """Its type and text are torch's, the path is a note."""
    samples = [{"a": [1], "b": np.zeros(2)}, {"a": [2], "b": np.zeros(3)}]
    with pytest.raises(RuntimeError, match="equal size") as caught:
        pad_dict(samples, {"a": Pad()}, default=None)
    assert "position 1 of the batch has shape (3,) under ['b']" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    "settings",
    [
        {"fields": {"a": 1}},
        {"fields": ["a"]},
        {"default": 5},
        {"default": Pad(fields=["a"])},
        {"lengths": "{name}"},
        {"mask": None},
    ],
    ids=str,
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, Any]) -> None:
    """Before a worker has started."""
    with pytest.raises(ValueError, match=r"fastload\.Pad|name the fields|is a name"):
        PadDict(**settings)


def test_lists_of_strings_can_not_be_padded() -> None:
    """A field that is named is a sequence, or it is an error."""
    with pytest.raises(fastload.CollateError, match="no sequence"):
        pad_dict(SAMPLES, {"words": Pad()})
