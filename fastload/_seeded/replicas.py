"""Among how many ranks a loader with ``seed=`` deals its stream.

Runs in: consumer.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch.distributed


def ranks_of(options: Any) -> tuple[int, int]:
    """Number of ranks and this rank: as given to a loader, else torch.distributed's, else 1 and 0.

    It is asked anew for each pass and each ``len``, because a process group may be initialised
    after the loader was made.
    """
    if options.num_replicas is not None:
        return options.num_replicas, options.rank or 0
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    _warn_of_missing_group()
    return 1, 0


_has_warned: list[bool] = []


def _warn_of_missing_group() -> None:
    size = os.environ.get("WORLD_SIZE", "1")
    if os.environ.get("RANK") is None or size == "1" or _has_warned:
        return
    _has_warned.append(True)
    warnings.warn(
        f"RANK={os.environ['RANK']} and WORLD_SIZE={size} are set, but torch.distributed has no "
        f"process group, so every rank loads the whole stream. Call "
        f"torch.distributed.init_process_group before iterating, or give num_replicas= and rank= "
        f"to the loader (num_replicas=1 where one rank is to load everything).",
        stacklevel=2,
    )
