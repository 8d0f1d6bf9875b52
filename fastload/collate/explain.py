"""Say where the samples of a batch differ, after the default collate has failed on them.

Runs in: worker (consumer with ``num_workers=0``), only once a batch could not be collated.
Takes: the samples and their dataset indices.
Gives: a sentence with the key path, both shapes and the index, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fastload.collate.misfit import keys_of
from fastload.errors import show

COLLATABLE = (Tensor, np.ndarray, np.generic, bool, int, float, str, bytes, Mapping, Sequence)


class _Difference(NamedTuple):
    position: int
    path: str
    found: str
    expected: str | None


def explain(
    samples: Sequence[Any],
    indices: Sequence[Any] | None,
    *,
    path: str = "",
    is_fine: Callable[[Sequence[Any]], bool] = lambda _: False,
) -> str | None:
    """Name the first difference that the default collate can't bridge; None if there is none.

    Args:
        samples: The samples of one batch.
        indices: Their dataset indices; None if unknown, as in a stream.
        path: The path to the samples, if they are a field of others.
        is_fine: Whether differences in a column don't matter.
    """
    difference = next(_differences(samples, path, is_fine), None)
    if difference is None:
        return None
    position, path, found, expected = difference

    def name(number: int) -> str:
        if indices is None:
            return f"position {number} of the batch"
        return f"dataset index {show(indices[number])}"

    where = f" under {path}" if path else ""
    text = f"the sample at {name(position)} has {found}{where}"
    if expected is None:
        return f"{text}, which the default collate can't make a batch of"
    index = name(0).removeprefix("dataset ")
    return (
        f"{text}, the one at {index} has {expected}. The default collate stacks equal samples only"
    )


def _differences(
    samples: Sequence[Any], path: str, is_fine: Callable[[Sequence[Any]], bool]
) -> Iterator[_Difference]:
    if is_fine(samples):
        return
    first = samples[0]
    expected = _describe(first)
    for position, sample in enumerate(samples):
        found = _describe(sample)
        if found != expected:
            yield _Difference(position, path, found, expected)
            return
    if not isinstance(first, COLLATABLE):
        yield _Difference(0, path, expected, None)
    for key in keys_of(first):
        yield from _differences([sample[key] for sample in samples], f"{path}[{key!r}]", is_fine)


def _describe(sample: Any) -> str:
    """Say in words what must be equal of all samples."""
    if isinstance(sample, Tensor | np.ndarray):
        return f"shape {tuple(sample.shape)}"
    if isinstance(sample, Mapping):
        return f"keys {sorted(map(repr, sample))}"
    if isinstance(sample, Sequence) and not isinstance(sample, str | bytes):
        return f"{len(sample)} elements"
    if isinstance(sample, bool | int | float | np.generic):
        return "a number"
    return f"type {type(sample).__name__}"
