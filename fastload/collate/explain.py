"""Say where the samples of a batch differ, after the default collate has failed on them.

Runs in: worker (consumer with ``num_workers=0``), only once a batch could not be collated.
Takes: the samples and their dataset indices.
Gives: a sentence with the key path, both shapes and the index, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fastload.errors import show


class _Difference(NamedTuple):
    position: int
    path: str
    found: str
    expected: str


def explain(samples: Sequence[Any], indices: Sequence[Any]) -> str | None:
    """The first difference that the default collate can't bridge, or None if there is none."""
    difference = next(_differences(samples, ""), None)
    if difference is None:
        return None
    position, path, found, expected = difference
    where = f" under {path}" if path else ""
    return (
        f"the sample at dataset index {show(indices[position])} has {found}{where}, the one at "
        f"index {show(indices[0])} has {expected}. The default collate stacks equal samples only: "
        f"pad or resize in the dataset, or pass a collate_fn that does"
    )


def _differences(samples: Sequence[Any], path: str) -> Iterator[_Difference]:
    first = samples[0]
    expected = _describe(first)
    for position, sample in enumerate(samples):
        found = _describe(sample)
        if found != expected:
            yield _Difference(position, path, found, expected)
            return
    if isinstance(first, Mapping):
        for key in first:
            yield from _differences([sample[key] for sample in samples], f"{path}[{key!r}]")
    elif _is_sequence(first):
        for number in range(len(first)):
            yield from _differences([sample[number] for sample in samples], f"{path}[{number}]")


def _describe(sample: Any) -> str:
    """What must be equal of all samples, in words."""
    if isinstance(sample, Tensor | np.ndarray):
        return f"shape {tuple(sample.shape)}"
    if isinstance(sample, Mapping):
        return f"keys {sorted(map(repr, sample))}"
    if _is_sequence(sample):
        return f"{len(sample)} elements"
    if isinstance(sample, bool | int | float | np.generic):
        return "a number"
    return f"type {type(sample).__name__}"


def _is_sequence(sample: Any) -> bool:
    return isinstance(sample, Sequence) and not isinstance(sample, str | bytes)
