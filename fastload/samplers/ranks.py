"""Find out which process of how many this is.

Runs in: consumer.
Takes: what the user said, torch's process group, the environment.
Gives: the rank of this process and the number of ranks.
"""

from __future__ import annotations

import os

import torch.distributed

from fastload.samplers.epochs import natural


def rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and world size: as given, as torch.distributed or the environment says, or 0, 1.

    The environment's are ``RANK`` and ``WORLD_SIZE``, which torchrun sets.

    Raises:
        TypeError: One of them is no integer.
        ValueError: ``rank`` is not below ``world_size``, or only one of them is known.
    """
    if rank is None and world_size is None:
        rank, world_size = _found()
    if rank is None or world_size is None:
        raise ValueError(
            f"rank and world_size belong together, but got rank={rank} and world_size={world_size}"
        )
    size = natural("world_size", world_size, least=1)
    if natural("rank", rank) >= size:
        raise ValueError(f"rank must be below world_size ({size}), but got {rank}")
    return int(rank), size


def _found() -> tuple[int | None, int | None]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    given = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")]
    if given == [None, None]:
        return 0, 1
    try:
        rank, world_size = (None if text is None else int(text) for text in given)
    except ValueError:
        raise ValueError(
            f"the environment has RANK={given[0]!r} and WORLD_SIZE={given[1]!r}, which are no "
            f"integers; give rank and world_size"
        ) from None
    return rank, world_size
