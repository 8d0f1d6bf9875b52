"""Read a batch of a dataset that lies in memory with one index operation a field.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a dataset of a kind that ``fastload.datasets.kinds`` knows, and a list of indices.
Gives: what the default collate makes of those samples.

Only exact types are recognised, and only if all datasets inside are: a subclass may do anything in
its ``__getitem__``. Whatever is not plain (a negative index, one that is out of range, an index
that is no integer) is left to reading sample by sample, which then gives torch's result or error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastload._memory.write import Place
from fastload._wire.indices import Compact
from fastload.collate.inplace import collates_as_torch, is_cpu_default
from fastload.datasets.kinds import node_of, signature_of
from fastload.datasets.nodes import NotGatherableError, RowNumbers, gather_within, row_numbers


def gatherer(
    dataset: Any, *, is_live: bool = False, is_concurrent: bool = False
) -> Callable[[Any, Place], Any] | None:
    """Return how to gather from a dataset, or None if it must be read sample by sample.

    What it returns takes indices and a place, and may raise ``NotGatherableError``.

    Args:
        dataset: Any map-style dataset.
        is_live: The program may put other arrays into the dataset meanwhile, and batches must
            show them at once, as they do sample by sample. A worker has a copy of the dataset.
        is_concurrent: Samples that have to be loaded are loaded several at a time, so a batch is
            not read in one piece where each of its samples is a file.
    """
    node = node_of(dataset)
    if node is None or (is_concurrent and node.loads_samples):
        return None
    signature = signature_of(dataset)

    def gather(indices: Any, place: Place) -> Any:
        nonlocal node, signature
        if is_live and (now := signature_of(dataset)) != signature:
            node, signature = node_of(dataset), now
        if node is None or not collates_as_torch() or not is_cpu_default():
            raise NotGatherableError
        if type(indices) is Compact:
            return gather_within(node, _numbers(indices), place)
        if type(indices) is not list:
            raise NotGatherableError
        return gather_within(node, row_numbers(indices), place)

    return gather


def _numbers(indices: Compact) -> RowNumbers:
    numbers = indices.numbers
    if isinstance(numbers, range):
        return np.arange(numbers.start, numbers.stop)
    return numbers.astype(np.int64)  # offsets are computed of them
