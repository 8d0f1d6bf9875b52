"""Check a loader with `seed=`: no batch may depend on the workers, no sample may be lost.

Its order is another one than torch's where samples are shuffled. So what can be demanded is: equal
batches with and without workers; torch's batches where the order is the dataset's; else torch's
samples, each as often, in each epoch. Workloads draw no random numbers in the dataset.

Runs in: the process of `verify`.
Takes: a workload, the loader that is taken as right, the one to check.
Gives: the first difference in words, or None.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fastload.tools.bench.equality import difference
from fastload.tools.bench.loaders import make_loader
from fastload.tools.bench.workload import Workload

_EPOCHS = 2
_LEAST_WORKERS = 2


def verify_seeded(
    workload: Workload, baseline: str, candidate: str, *, samples: int, workers: int
) -> str | None:
    """Load two small epochs with torch, and with the candidate without and with workers.

    Args:
        workload: what to load.
        baseline: the loader whose samples are right.
        candidate: the name of a loader with a seed.
        samples: samples of an epoch.
        workers: as asked for; at least two are compared with none.
    """
    alone = replace(workload, workers=0)
    shared = replace(workload, workers=_LEAST_WORKERS)
    number = max(workload.workers_given(workers), _LEAST_WORKERS)
    inline = _load(alone, candidate, samples, 0)
    parallel = _load(shared, candidate, samples, number)
    words = difference(inline, parallel, f"with {number} workers instead of none, epochs")
    if words is not None:
        return words
    expected = _load(alone, baseline, samples, 0)
    if not workload.cook(samples, baseline).options.get("shuffle"):
        return difference(expected, inline, "epochs")
    for epoch in range(_EPOCHS):
        words = _samples_difference(expected[epoch], inline[epoch])
        if words is not None:
            return f"epoch {epoch} {words}"
    return None


def _load(workload: Workload, loader_name: str, samples: int, workers: int) -> list[list[Any]]:
    recipe = workload.cook(samples, loader_name).for_comparison()
    as_usual = recipe.as_usual or (lambda batch: batch)
    loader = make_loader(workload, recipe, loader_name, workers=workers)
    return [[copy.deepcopy(as_usual(batch)) for batch in loader] for _ in range(_EPOCHS)]


def _samples_difference(expected: list[Any], actual: list[Any]) -> str | None:
    wanted, given = (
        Counter(sample for batch in batches for sample in samples_of(batch))
        for batches in (expected, actual)
    )
    missing, added = (wanted - given).total(), (given - wanted).total()
    if not missing and not added:
        return None
    return f"lacks {missing} of {wanted.total()} samples and has {added} that should not be there"


def samples_of(batch: Any) -> Iterator[Any]:
    """Take a collated batch apart into samples that can be compared and counted.

    Tensors and arrays are columns with a sample in each row; a list of plain values is a column
    too; dicts and lists of columns are records.

    Example:
        >>> list(samples_of({"name": ["a", "b"], "number": [1, 2]}))
        [('a', 1), ('b', 2)]
    """
    if isinstance(batch, torch.Tensor):
        return (_bytes_of(row) for row in batch.numpy())
    if isinstance(batch, np.ndarray):
        return (_bytes_of(row) for row in batch)
    columns = list(batch.values()) if isinstance(batch, Mapping) else list(batch)
    if isinstance(batch, Mapping) or any(_is_column(each) for each in columns):
        return zip(*(samples_of(each) for each in columns), strict=True)
    return iter(columns)


def _is_column(value: Any) -> bool:
    if isinstance(value, torch.Tensor | np.ndarray | Mapping):
        return True
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _bytes_of(row: Any) -> tuple[str, tuple[int, ...], bytes]:
    array = np.asarray(row)
    return str(array.dtype), array.shape, array.tobytes()
