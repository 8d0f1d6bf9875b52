"""What each thread reads: the program's own dataset and collate function, or a copy of them.

Runs in: consumer.

Threads share the dataset; that is what they are for. Two things can't be shared. Generators that
the dataset or the collate function owns: with ``seed=`` they are set in front of each sample, and
two threads would set them for one another. And torch's data pipes, of which there can be but one
iterator, and which workers change to get their shares.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from torch.utils.data import IterDataPipe, MapDataPipe

from fastload._seeded.owned import find_generators
from fastload.errors import show


class ThreadParts(NamedTuple):
    """What one thread works with; ``is_copy`` says that the program has others."""

    dataset: Any
    collate_fn: Any
    is_copy: bool = False


def parts_of(dataset: Any, collate_fn: Any, threads: int, *, is_seeded: bool) -> list[ThreadParts]:
    """What each of so many threads works with.

    Args:
        dataset: The loader's dataset.
        collate_fn: The loader's collate function.
        threads: Number of threads.
        is_seeded: Whether generators are set for each sample.

    Raises:
        ValueError: A copy is needed for each thread, and none can be made.
    """
    why = _why_not_shared(dataset, collate_fn, is_seeded=is_seeded)
    if not why:
        return [ThreadParts(dataset, collate_fn)] * threads
    return [_copied(dataset, collate_fn, why) for _ in range(threads)]


def _why_not_shared(dataset: Any, collate_fn: Any, *, is_seeded: bool) -> str:
    if isinstance(dataset, IterDataPipe | MapDataPipe):
        return "is a data pipe, which only one thread can read"
    owned = []
    if is_seeded:
        owned = find_generators(dataset, "dataset") + find_generators(collate_fn, "collate_fn")
    paths = ", ".join(each.path for each in owned)
    return f"has random generators of its own ({paths}), which are set for each sample" * bool(
        paths
    )


def _copied(dataset: Any, collate_fn: Any, why: str) -> ThreadParts:
    try:
        # Together: what both refer to is one object in the copy too.
        return ThreadParts(*copy.deepcopy((dataset, collate_fn)), is_copy=True)
    except Exception as error:
        raise ValueError(
            f"worker_method='thread': {type(dataset).__name__} with {show(collate_fn)} {why}, so "
            f"each thread needs a copy; but copy.deepcopy raised {type(error).__name__}: {error}. "
            f"Give the class a __deepcopy__, or use worker_method='process'"
        ) from error
