"""What was found in a dataset's files, as plain values.

Runs in: consumer.
Takes: samples and batches.
Gives: words for them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from fastload.tools.words import counted, one_line

SCHEMA_VERSION = 1
_LONGEST = 60
_MOST_ITEMS = 6


@dataclass(frozen=True, slots=True)
class Part:
    """A column, a field, or a class of images.

    Attributes:
        name: Its name.
        kind: Its type, or what is made of it.
        count: How many samples have it.
        sizes: Smallest, median and largest number of bytes; None where that is not known.
    """

    name: str
    kind: str
    count: int
    sizes: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample.

    Attributes:
        name: Its key, path or number.
        values: What is in it, in words, by name; or why it can't be read.
        image: Its first image, uint8 (3, height, width); None if there is none.
    """

    name: str
    values: dict[str, str]
    image: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Attributes:
        path: What was looked at.
        kind: What it is, in a few words.
        facts: Numbers of samples and files, sizes; by name.
        parts_are: What the parts are: columns, fields, classes.
        parts: Each of them.
        samples: A few, spread over the dataset.
        batch: For each part of a batch of these samples its words; or why there is none.
        problems: What is wrong, or wants to be changed.
        is_bad: Whether something could not be read.
    """

    path: str
    kind: str
    facts: dict[str, str]
    parts_are: str
    parts: list[Part]
    samples: list[Shown] = field(default_factory=list)
    batch: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    is_bad: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, without images."""
        return {
            "schema_version": SCHEMA_VERSION,
            "path": self.path,
            "kind": self.kind,
            "facts": self.facts,
            "parts_are": self.parts_are,
            "parts": [asdict(part) for part in self.parts],
            "samples": [{"name": each.name, "values": each.values} for each in self.samples],
            "batch": self.batch,
            "problems": self.problems,
            "is_bad": self.is_bad,
        }


def spread(sizes: Sequence[int]) -> tuple[int, int, int] | None:
    """Return smallest, median and largest."""
    if not sizes:
        return None
    return min(sizes), int(statistics.median(sizes)), max(sizes)


def size_words(size_bytes: float) -> str:
    """Return a number of bytes with its unit."""
    if size_bytes < 1024:
        return counted(int(size_bytes), "byte")
    for unit in ("KiB", "MiB"):
        size_bytes /= 1024
        if size_bytes < 1024:
            return f"{size_bytes:,.1f} {unit}"
    size_bytes /= 1024
    return f"{size_bytes:,.1f} GiB"


def evenly(total: int, count: int) -> list[int]:
    """Return up to so many numbers below a total, spread evenly, from the first on."""
    count = min(count, total)
    return [number * total // count for number in range(count)]


def in_words(value: Any) -> str:
    """Return a value in a few words, on one line."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return _array_words(value)
    if isinstance(value, bytes | bytearray):
        return counted(len(value), "byte")
    if isinstance(value, Mapping):
        named = [f"{one_line(name, 20)}: {in_words(inner)}" for name, inner in _few(value.items())]
        return f"{{{', '.join(named)}{_more(value)}}}"
    if isinstance(value, list | tuple):
        words = ", ".join(in_words(inner) for inner in _few(value))
        return f"[{words}{_more(value)}]"
    return f"{type(value).__name__} {one_line(repr(value), _LONGEST)}"


def _array_words(array: Any) -> str:
    name = str(array.dtype).removeprefix("torch.")
    if getattr(array, "is_nested", False):
        return f"jagged nested tensor of {name}, {array.size(0)} rows"
    kind = "tensor" if isinstance(array, torch.Tensor) else "array"
    shape = tuple(array.shape)
    if not shape:
        return f"{name} {kind} {one_line(array.item())}"
    few = ""
    if len(shape) == 1 and shape[0] <= _MOST_ITEMS and name != "object":
        few = f" {one_line(array.tolist())}"
    return f"{name} {kind} {shape}{few}"


def _few(items: Iterable[Any]) -> list[Any]:
    return [item for item, _ in zip(items, range(_MOST_ITEMS), strict=False)]


def _more(items: Any) -> str:
    return f", ... {len(items) - _MOST_ITEMS} more" if len(items) > _MOST_ITEMS else ""


def named_values(sample: Any) -> dict[str, str]:
    """Return what is in a sample or batch, in words, by name."""
    if isinstance(sample, Mapping):
        return {str(name): in_words(value) for name, value in sample.items()}
    if isinstance(sample, list | tuple):
        return {str(number): in_words(value) for number, value in enumerate(sample)}
    return {"": in_words(sample)}


def first_image(sample: Any) -> torch.Tensor | None:
    """Return the first image in a sample: uint8 (3, height, width)."""
    values = sample.values() if isinstance(sample, Mapping) else sample
    if isinstance(sample, torch.Tensor):
        values = [sample]
    for value in values if isinstance(values, Iterable) else ():
        is_tensor = isinstance(value, torch.Tensor) and not value.is_nested
        if is_tensor and value.dtype == torch.uint8 and value.dim() == 3 and len(value) == 3:
            image: torch.Tensor = value
            return image
    return None
