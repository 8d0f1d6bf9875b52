"""Checks of a loader's arguments that torch does not have, and of those that exclude each other.

Runs in: consumer.

What belongs to ``seed=`` is checked in ``fastload._seeded.options``, what belongs to parts of
batches in ``fastload._epoch.cut``.
"""

from __future__ import annotations

import os
from typing import Any

from torch.utils.data import IterableDataset

from fastload._loading.concurrent import awaits_batches, awaits_samples
from fastload._loading.on_error import OnError
from fastload._seeded.streams import loads_items

HAS_OWN_WORKERS = os.name == "posix"
"""Elsewhere workers are torch's own: Windows has no pipes that can be waited for in one call."""


def check_options(
    memory_limit: Any, max_worker_restarts: int, on_error: OnError, max_errors: int
) -> None:
    """Check the options of ours that stand for themselves.

    Raises:
        ValueError: One of them is out of range.
    """
    if memory_limit is not None and not (
        isinstance(memory_limit, int | float) and memory_limit >= 0
    ):
        raise ValueError(
            f"memory_limit is a number of bytes, such as 2**30, but got {memory_limit!r}"
        )
    if max_worker_restarts < 0 or max_errors < 0:
        raise ValueError(
            f"max_worker_restarts and max_errors count from 0, but got "
            f"{max_worker_restarts!r} and {max_errors!r}"
        )
    if on_error not in ("raise", "skip") and not callable(on_error):
        raise ValueError(
            f"on_error is 'raise', 'skip' or a function (error, index) -> sample or None, "
            f"but got {on_error!r}"
        )


_NOT_GIVEN: dict[str, tuple[Any, ...]] = {
    "multiprocessing_context": (None,),
    "max_worker_restarts": (0,),
    "workers_per_batch": (1, "auto"),
    "concurrent_samples": (1,),
}
"""Values of arguments that say nothing, of those that exclude threads."""


def check_method(
    method: str, dataset: Any, excluded: dict[str, tuple[Any, str]], *, is_automatic: bool
) -> None:
    """Check what workers are, together with what only processes have.

    Args:
        method: The argument ``worker_method``.
        dataset: The dataset.
        excluded: Other arguments that were given, with the reason why threads exclude them.
        is_automatic: Whether workers, or how much they load ahead, are to be chosen.

    Raises:
        ValueError: There is no such method, or arguments exclude each other.
    """
    if method not in ("process", "thread"):
        raise ValueError(f"worker_method is 'process' or 'thread', but got {method!r}")
    if method == "process":
        return
    if not HAS_OWN_WORKERS:
        raise ValueError(f"worker_method='thread' is not supported on {os.name!r} systems yet")
    for name, (value, why) in excluded.items():
        if value not in _NOT_GIVEN[name]:
            raise ValueError(
                f"worker_method='thread' and {name}={value!r} exclude each other: {why}; leave "
                f"one of them out"
            )
    if awaits_samples(dataset) or awaits_batches(dataset):
        raise ValueError(
            f"worker_method='thread' calls {type(dataset).__name__} in threads, but its "
            f"`async def` needs an event loop; use worker_method='process'"
        )
    if is_automatic:
        raise ValueError(
            'worker_method=\'thread\' and "auto" do not go together: num_workers="auto" and '
            'prefetch_factor="auto" measure processes; give numbers'
        )


def check_concurrency(concurrent_samples: int, dataset: Any, *, has_seed: bool) -> None:
    """Check that several samples can load at a time.

    Raises:
        ValueError: They can't: of the dataset, or on this system.
    """
    if concurrent_samples == 1:
        return
    if not HAS_OWN_WORKERS:
        raise ValueError(
            f"concurrent_samples={concurrent_samples} is not supported on {os.name!r} systems; "
            f"leave it out"
        )
    if isinstance(dataset, IterableDataset) and not (has_seed and loads_items(dataset)):
        raise ValueError(
            f"concurrent_samples={concurrent_samples} needs a map-style dataset, but "
            f"{type(dataset).__name__} is iterable: its samples come one after another. Give it "
            f"`__getitem__` and `__len__`, or seed= and a method load(item)"
        )
