"""Any nesting is moved, and keeps its classes; the "meta" device shows what was moved."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import fastload
from fastload._device.moving import moved, record_stream

META = torch.device("meta")


class Pair(NamedTuple):
    first: Any
    second: Any


class Rows(list):
    """A list of a class of its own."""


@dataclass(frozen=True)
class Sample:
    image: torch.Tensor
    names: list[str]
    more: Any = field(init=False, default=None)


class Graph:
    """An object that moves itself, without ``non_blocking``."""

    def __init__(self, x):
        self.x = x

    def to(self, device):
        return Graph(self.x.to(device))


def one():
    return torch.ones(2)


NESTINGS = {
    "tensor": (one, lambda b: [b]),
    "dict": (lambda: {"a": one(), "b": "text", "c": 3}, lambda b: [b["a"]]),
    "ordered": (lambda: OrderedDict(a=one()), lambda b: [b["a"]]),
    "defaultdict": (lambda: defaultdict(list, a=one()), lambda b: [b["a"]]),
    "userdict": (lambda: UserDict(a=one()), lambda b: [b["a"]]),
    "list": (lambda: [one(), (one(), None)], lambda b: [b[0], b[1][0]]),
    "rows": (lambda: Rows([one()]), lambda b: [b[0]]),
    "namedtuple": (lambda: Pair(one(), {"x": [one()]}), lambda b: [b.first, b.second["x"][0]]),
    "dataclass": (lambda: Sample(one(), ["a"]), lambda b: [b.image]),
    "object": (lambda: [Graph(one())], lambda b: [b[0].x]),
    "packed": (lambda: pack_sequence([one()]), lambda b: [b.data]),
}


@pytest.mark.parametrize("name", NESTINGS)
def test_every_tensor_is_moved_and_classes_stay(name) -> None:
    """The batch itself is not changed."""
    make, tensors = NESTINGS[name]
    batch = make()
    on_device = moved(batch, META, non_blocking=True)
    assert type(on_device) is type(batch)
    assert [tensor.device for tensor in tensors(on_device)] == [META] * len(tensors(batch))
    assert all(tensor.device.type == "cpu" for tensor in tensors(batch))


def test_what_is_no_tensor_is_passed_on() -> None:
    """The same objects."""
    names, text, other = ["a"], b"bytes", object()
    batch = {"names": names, "text": text, "other": other, "type": Graph}
    assert moved(batch, META, non_blocking=True) == batch
    assert moved(defaultdict(list, a=one()), META, non_blocking=True)["new"] == []


def test_mapping_that_cannot_be_changed_becomes_one_of_its_class() -> None:
    """As torch's pinning makes it."""
    batch = moved(MappingProxyType({"a": one()}), META, non_blocking=True)
    assert type(batch) is MappingProxyType
    assert batch["a"].device == META


@pytest.mark.parametrize("make", [fastload.pad, fastload.pack, fastload.ragged])
def test_batches_of_our_collate_functions_are_moved(make) -> None:
    """With their lengths and masks."""
    batch = make([torch.ones(2), torch.ones(3)])
    found = moved(batch, META, non_blocking=True)
    assert type(found) is type(batch)
    parts = found if isinstance(found, tuple) else vars(found).values()
    shown = [each.device for each in parts if isinstance(each, torch.Tensor)]
    assert shown
    assert set(shown) == {META}


def test_streams_are_recorded_on_every_tensor() -> None:
    """And it is told where one can't be found."""
    told = []

    class Array:
        def record_stream(self, stream):
            told.append(stream)

        def to(self, device, non_blocking=False):
            return self

    assert record_stream([{"a": Array()}, Sample(Array(), ["a"]), Pair(Array(), "text"), 3], "main")
    assert told == ["main"] * 3
    assert not record_stream(Graph(Array()), "main")
    assert told == ["main"] * 4
