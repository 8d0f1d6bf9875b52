"""Read a batch of an in-memory dataset with one index operation a field.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a ``TensorDataset`` of dense tensors on the CPU and a list of indices.
Gives: what the default collate makes of those samples: a list of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from fastload.collate.inplace import stacks_tensors
from fastload.memory.write import HEAP, Place, is_plain

Gather = Callable[[Any, Place], Any]


def gatherer(dataset: Any) -> Gather | None:
    """How to gather from this dataset, or None if it is to be read sample by sample."""
    if type(dataset) is not TensorDataset or not all(map(_is_gatherable, dataset.tensors)):
        return None
    tensors = dataset.tensors

    def gather(indices: Any, place: Place) -> Any:
        if type(indices) is not list or set(map(type, indices)) != {int}:
            return None
        if not stacks_tensors():
            return None
        rows = torch.tensor(indices)
        lowest = int(rows.min())
        if lowest < 0 or int(rows.max()) >= len(tensors[0]):
            return None  # negative ones count from the end, others raise: sample by sample
        if place is HEAP:
            return [torch.index_select(tensor, 0, rows) for tensor in tensors]
        return [
            torch.index_select(
                tensor, 0, rows, out=place.tensor((len(indices), *tensor.shape[1:]), tensor.dtype)
            )
            for tensor in tensors
        ]

    return gather


def _is_gatherable(tensor: Tensor) -> bool:
    return (
        type(tensor) is Tensor
        and is_plain(tensor)
        and tensor.dim() > 0
        and not tensor.requires_grad
        and not tensor.is_conj()
    )
