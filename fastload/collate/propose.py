"""Find a collate function that would have worked on samples that the default one refused.

Runs in: worker (consumer with ``num_workers=0``), only once a batch could not be collated.
Takes: the samples.
Gives: what to pass as ``collate_fn``, tried on these very samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fastload._system.interruptions import is_from_outside, own_suppressed
from fastload.collate.misfit import keys_of
from fastload.collate.pad_dict import PadDict
from fastload.collate.padding import Pad
from fastload.collate.ragged_rows import as_dim


def propose(samples: Sequence[Any]) -> str:
    """Say what to do."""
    for text, collate in _candidates(samples):
        try:
            collate(samples)
        except Exception as error:  # then it is not this one
            if is_from_outside(error):
                raise
            continue
        return f"Use {text}, or make them equal in the dataset"
    return (
        "Make them equal in the dataset, or pass a collate_fn that takes them as they are, such as "
        "collate_fn=list"
    )


def _candidates(samples: Sequence[Any]) -> Iterator[tuple[str, Callable[[Sequence[Any]], Any]]]:
    if isinstance(samples[0], Mapping):
        yield "collate_fn=fastload.pad_dict", PadDict()
    yield "collate_fn=fastload.pad", Pad()
    with own_suppressed(Exception):  # samples may have different keys
        dim = as_dim(_ragged_dims(samples))
        yield f"collate_fn=fastload.Pad(dim={dim})", Pad(dim=dim)


def _ragged_dims(samples: Sequence[Any]) -> set[int]:
    """Return the dimensions in which tensors and arrays of a batch differ, wherever they are."""
    first = samples[0]
    if isinstance(first, Tensor | np.ndarray):
        return {d for d in range(first.ndim) if len({sample.shape[d] for sample in samples}) > 1}
    dims: set[int] = set()
    for key in keys_of(first):
        dims |= _ragged_dims([sample[key] for sample in samples])
    return dims
