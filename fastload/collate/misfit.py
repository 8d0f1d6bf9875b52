"""Say which sample of a batch can't be padded or packed, where in it, and what to do.

Runs in: worker (consumer with ``num_workers=0``), only once a batch could not be collated.
Takes: the misfit that a kernel met in one column of the batch, and the samples.
Gives: the error that the user sees, with the path to the column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastload.errors import CollateError

DEEPEST = 16
"""So many levels of containers are searched for the misfit; a sample may contain itself."""


class Misfit(Exception):  # noqa: N818  (a message from a kernel to its collate function)
    """Raised by a kernel, which does not know the path to its column, if a sample does not fit.

    Attributes:
        position: The position of the sample in the batch.
        leaf: The object that does not fit.
        found: What it has.
        expected: What it was expected to have, a whole clause.
        remedy: What the user can do, a whole sentence.
        compared_with: The position of the sample that set the expectation.
    """

    def __init__(
        self,
        position: int,
        leaf: Any,
        found: str,
        expected: str,
        remedy: str,
        compared_with: int | None = None,
    ) -> None:
        super().__init__(found)
        self.position = position
        self.leaf = leaf
        self.found = found
        self.expected = expected
        self.remedy = remedy
        self.compared_with = compared_with


def as_error(misfit: Misfit, samples: Sequence[Any]) -> CollateError:
    """Turn a misfit into the error that the user sees."""
    path = path_to(samples[misfit.position], misfit.leaf)
    where = f" under {path}" if path else ""
    return CollateError(
        f"the sample at position {misfit.position} of the batch has {misfit.found}{where}, "
        f"{misfit.expected}. {misfit.remedy}",
        misfit.position,
        misfit.compared_with,
    )


def path_to(sample: Any, leaf: Any, depth: int = DEEPEST) -> str | None:
    """Return the path from a sample to an object in it, as ``['image'][0]``, or None."""
    if sample is leaf:
        return ""
    if depth == 0:
        return None
    for key in keys_of(sample):
        below = path_to(sample[key], leaf, depth - 1)
        if below is not None:
            return f"[{key!r}]{below}"
    return None


def keys_of(sample: Any) -> list[Any]:
    """Return what to index a container with, in order; nothing for everything else."""
    if isinstance(sample, Mapping):
        return list(sample)
    if isinstance(sample, Sequence) and not isinstance(sample, str | bytes):
        return list(range(len(sample)))
    return []
