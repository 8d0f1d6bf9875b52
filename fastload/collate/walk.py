"""Collate samples with sequences among other things: the one walk of pad, pack and ragged.

Runs in: worker (consumer with ``num_workers=0``).
Takes: samples, and a kernel: a function that makes one thing of a column of sequences.
Gives: the batch, in the form that ``default_collate`` would give it.

The walk over containers is torch's own ``collate``, as in ``fastload.collate.inplace``. The kernel
is registered for tensors, arrays and lists, and passes what is no sequence to the kernel that it
replaces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fastload._memory.write import Place
from fastload._system.interruptions import is_from_outside, own_suppressed
from fastload._torch_private import collate_module as torch_collate
from fastload.collate.explain import explain
from fastload.collate.inplace import Registry, collate_column, registry_for
from fastload.collate.misfit import Misfit, as_error, keys_of
from fastload.collate.sequences import Column, is_sequence, is_text
from fastload.errors import CollateError, annotate

CONTAINERS = (
    "What is padded or packed are tensors, arrays and lists of numbers; tuples and dicts hold "
    "fields"
)
Kernel = Callable[[Column, Place], Any]
FieldNames = Collection[Any] | str | int | None
"""Names top-level fields: several, or one; None stands for all fields of sequences."""


def collate_fields(
    samples: Sequence[Any],
    place: Place,
    kernel: Kernel,
    *,
    fields: FieldNames = None,
    dims: tuple[int, ...] = (0,),
) -> Any:
    """Apply ``kernel`` to the sequences of the samples and the default collate to all else.

    Args:
        samples: At least one.
        place: Where the default collate puts its results; handed to the kernel.
        kernel: Called with each column of sequences.
        fields: The top-level fields that hold the sequences; None: found by their type.
        dims: The dimensions that a sequence must have.

    Raises:
        CollateError: A sample does not fit the others, or there is none.
    """
    samples = checked(samples)
    with misfits_explained(samples):
        if fields is None:
            return collate_nested(samples, place, kernel, dims)
        columns = columns_of(samples)
        known = known_fields(fields, columns)
        return rebuilt(
            samples[0],
            {
                key: kernel(sequences_only(column, dims), place)
                if key in known
                else collate_plain(column, place, key)
                for key, column in columns.items()
            },
        )


def collate_nested(
    samples: Column, place: Place, kernel: Kernel, dims: tuple[int, ...], *, path: str = ""
) -> Any:
    """Walk containers of any depth, which were found at ``path`` in the samples.

    Raises:
        Misfit: From the kernel.
        Exception: As the default collate, with a note that names the difference.
    """
    registry = registry_for(place)
    replaced = {kind: registry[kind] for kind in (Tensor, np.ndarray) if kind in registry}

    def arrays(batch: Column, *, collate_fn_map: Registry | None = None) -> Any:
        if is_sequence(batch, dims):
            return kernel(batch, place)
        original = replaced[Tensor if isinstance(batch[0], Tensor) else np.ndarray]
        return original(batch, collate_fn_map=collate_fn_map)

    def lists(batch: Column, **_: Any) -> Any:
        if is_sequence(batch, dims):
            return kernel(batch, place)
        if is_text(batch):
            return list(batch)
        # As tuples, or they would come back here.
        containers = [tuple(s) if isinstance(s, list) else s for s in batch]
        return torch_collate.collate(containers, collate_fn_map=registry)

    for kind in replaced:
        registry[kind] = arrays
    registry[list] = lists
    try:
        return torch_collate.collate(samples, collate_fn_map=registry)
    except (Misfit, CollateError):
        raise
    except Exception as error:
        _explain(error, samples, path, lambda column: is_sequence(column, dims) or is_text(column))
        raise


def collate_plain(column: Column, place: Place, key: Any) -> Any:
    """Collate one field with the default collate; an error says which field.

    Raises:
        Exception: As the default collate.
    """
    try:
        return list(column) if is_text(column) else collate_column(column, place)
    except Exception as error:
        _explain(error, column, f"[{key!r}]", lambda _: False)
        raise


def checked(samples: Sequence[Any]) -> list[Any]:
    """Return the samples as a list.

    Raises:
        CollateError: There are none.
    """
    samples = samples if isinstance(samples, list) else list(samples)
    if not samples:
        raise CollateError("there is no sample to make a batch of")
    return samples


def columns_of(samples: list[Any]) -> dict[Any, Column]:
    """Return the top-level fields of the samples, by key, or by position in a tuple or list.

    Raises:
        CollateError: Samples are not containers, or don't all have the same fields.
    """
    first = samples[0]
    keys = keys_of(first)
    if not keys:
        raise CollateError(
            f"samples have no fields: a dict or a tuple was expected, but the sample at position 0 "
            f"of the batch is a {type(first).__name__}",
            0,
        )
    for position, sample in enumerate(samples):
        if not _has_fields_of(first, sample):
            raise CollateError(
                f"the sample at position {position} of the batch, a {type(sample).__name__}, has "
                f"the fields {keys_of(sample)}, the one at position 0 {keys}: give all samples the "
                f"same",
                position,
                0,
            )
    return {key: [sample[key] for sample in samples] for key in keys}


def _has_fields_of(first: Any, sample: Any) -> bool:
    if isinstance(first, Mapping):
        return isinstance(sample, Mapping) and sample.keys() == first.keys()
    return isinstance(sample, Sequence) and len(sample) == len(first)


def known_fields(fields: Iterable[Any] | str | int, columns: Mapping[Any, Column]) -> set[Any]:
    """Return the fields that were named.

    Raises:
        CollateError: The samples have no such field.
    """
    known = {fields} if isinstance(fields, str | int) else set(fields)
    if not known <= columns.keys():
        missing = ", ".join(repr(key) for key in known if key not in columns)
        raise CollateError(f"samples have no field {missing}; they have {list(columns)}")
    return known


def sequences_only(column: Column, dims: tuple[int, ...] = (0,)) -> Column:
    """Return the column, which must be one of sequences.

    Raises:
        Misfit: It is not.
    """
    if not is_sequence(column, dims):
        raise Misfit(
            0,
            column[0],
            f"a {type(column[0]).__name__}",
            f"which is no sequence with dimension {', '.join(map(str, dims))}",
            "Sequences are tensors, arrays and lists of numbers: leave this field to the default "
            "collate by not naming it.",
        )
    return column


def rebuilt(first: Any, fields: dict[Any, Any]) -> Any:
    """Make a container like a sample of the collated fields; a tuple becomes a list, as ever."""
    if isinstance(first, Mapping):
        return fields
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*fields.values())
    return list(fields.values())


@contextlib.contextmanager
def misfits_explained(samples: list[Any]) -> Iterator[None]:
    """Turn a kernel's misfit into the user's error, which has the path to the column."""
    try:
        yield
    except Misfit as misfit:
        raise as_error(misfit, samples) from misfit.__cause__


def _explain(
    error: Exception, samples: Column, path: str, is_fine: Callable[[Column], bool]
) -> None:
    if is_from_outside(error):
        return
    with own_suppressed(Exception):  # samples may be anything
        if why := explain(samples, None, path=path, is_fine=is_fine):
            annotate(error, f"{why}. {CONTAINERS}")
