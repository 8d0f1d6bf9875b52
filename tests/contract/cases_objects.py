"""Plain objects and containers that a loader has to carry: name → function that makes one."""

import datetime as dt
import decimal
import enum
import fractions
import pathlib
import uuid
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(str):
    """A subclass of str."""


class Meters(float):
    """A subclass of float."""


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Sample:
    image: torch.Tensor
    label: int
    tags: list[Any] = field(default_factory=list[Any])


class Bag(dict[str, Any]):
    """A mutable mapping with something beside its items."""

    note = "none"


class FrozenMapping(Mapping[Any, Any]):
    """An immutable mapping made from another one."""

    def __init__(self, items: Any) -> None:
        self.items_of_mine = dict(items)

    def __getitem__(self, key: Any) -> Any:
        return self.items_of_mine[key]

    def __iter__(self) -> Any:
        return iter(self.items_of_mine)

    def __len__(self) -> int:
        return len(self.items_of_mine)


class TwoArguments(FrozenMapping):
    """A mapping that cannot be made from another one."""

    def __init__(self, items: Any, second: Any) -> None:
        super().__init__(items)
        self.second = second


class Row(list[Any]):
    """A mutable sequence with something beside its items."""


class Pair(tuple[Any]):
    """A tuple without names."""

    __slots__ = ()


class Steps(Sequence[Any]):
    """An immutable sequence made from another one."""

    def __init__(self, items: Any) -> None:
        self.items_of_mine = tuple(items)

    def __getitem__(self, position: Any) -> Any:
        return self.items_of_mine[position]

    def __len__(self) -> int:
        return len(self.items_of_mine)


class Graph:
    """An ordinary object that holds tensors and arrays."""

    def __init__(self) -> None:
        self.nodes = torch.arange(6.0).view(2, 3)
        self.edges = np.arange(4)
        self.inner = {"weights": [torch.ones(2)], "name": "graph"}


class Slotted:
    """An object without a dictionary that says itself how it is pickled."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is Slotted and torch.equal(self.value, other.value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return Slotted, (self.value,)


def _bag() -> Any:
    bag = Bag(a=torch.ones(2), b=1)
    bag.note = "mine"
    return bag


def _row() -> Any:
    row = Row([torch.ones(2), 1])
    row.note = "mine"  # type: ignore[attr-defined]
    return row


def _tensor() -> Any:
    return torch.arange(4.0)


def _array() -> Any:
    return np.arange(4.0)


PLAIN = {
    "str": lambda: "text",
    "empty str": lambda: "",
    "unicode": lambda: "ü∑😀\x00",
    "lone surrogate": lambda: "\ud800",
    "bytes": lambda: b"\x00\xffbytes",
    "bytearray": lambda: bytearray(b"abc"),
    "int": lambda: -7,
    "largest int": lambda: 2**63 - 1,
    "huge int": lambda: 2**200,
    "float": lambda: 0.1,
    "NaN": lambda: float("nan"),
    "negative zero": lambda: -0.0,
    "bool": lambda: True,
    "None": lambda: None,
    "complex": lambda: 1 - 2j,
    "ellipsis": lambda: ...,
    "class": lambda: Point,
    "function": lambda: _tensor,
    "dtype": lambda: torch.float16,
    "size": lambda: torch.Size([2, 3]),
    "device": lambda: torch.device("cpu"),
    "enum": lambda: Colour.BLUE,
    "int enum": lambda: Level.HIGH,
    "str subclass": lambda: Word("text"),
    "float subclass": lambda: Meters(1.5),
    "decimal": lambda: decimal.Decimal("1.10"),
    "fraction": lambda: fractions.Fraction(1, 3),
    "datetime": lambda: dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc),
    "path": lambda: pathlib.PurePosixPath("/a/b"),
    "uuid": lambda: uuid.UUID(int=5),
    "exception": lambda: str(ValueError("a")),
    "long str": lambda: "x" * 300_000,
    "long bytes": lambda: b"x" * 300_000,
}

CONTAINERS = {
    "list": lambda: [_tensor(), _array(), 1, "a"],
    "empty list": list,
    "empty tuple": tuple,
    "empty dict": dict,
    "nested lists": lambda: [[_tensor(), [1, [2.5]]], []],
    "tuple": lambda: (_tensor(), 1),
    "tuple subclass": lambda: Pair((_tensor(), 1)),  # type: ignore[arg-type]
    "namedtuple": lambda: Point(_tensor(), Point(1, "a")),
    "list subclass": _row,
    "user list": lambda: UserList([_tensor(), 2]),
    "sequence": lambda: Steps([_tensor(), 2]),
    "deque": lambda: deque([_tensor(), 1], maxlen=5),
    "range": lambda: range(2, 8, 3),
    "set": lambda: {1, 2, 3},
    "frozenset": lambda: frozenset("ab"),
    "dict": lambda: {"z": _tensor(), "a": {"deep": (_array(), "s")}, "k": None},
    "dict without None": lambda: {"z": _tensor(), "a": {"deep": (_array(), "s")}},
    "dict with odd keys": lambda: {1: _tensor(), (2, "b"): 1.5, b"k": True, 0.5: "x"},
    "ordered dict": lambda: OrderedDict(b=_tensor(), a=2),
    "defaultdict": lambda: defaultdict(list, a=_tensor(), b=[1, 2]),
    "counter": lambda: Counter(a=1, b=2),
    "user dict": lambda: UserDict(a=_tensor()),
    "chain map": lambda: ChainMap({"a": _tensor()}, {"b": 1}),
    "dict subclass": _bag,
    "immutable mapping": lambda: FrozenMapping({"a": _tensor(), "b": 1}),
    "mapping that cannot be remade": lambda: TwoArguments({"a": _tensor()}, 2),
    "dataclass": lambda: Sample(_tensor(), 3, ["a", _array()]),
    "namespace": lambda: SimpleNamespace(a=_tensor(), b=[1]),
    "object with tensors": Graph,
    "object with tensors in a dict": lambda: {"graph": Graph(), "x": _tensor()},
    "slotted object": lambda: Slotted(torch.ones(3)),
    "many leaves": lambda: {f"key {k}": torch.full((k,), k) for k in range(200)},
    "deep": lambda: [[[[[[[[[[_tensor()]]]]]]]]]],
    "large list": lambda: list(range(20_000)),
    "large list of str": lambda: [f"word {k}" for k in range(100_000)],
    "large dict": lambda: {f"key {k}": [k, None] for k in range(20_000)},
}
