"""Who reads what of a stream: ranks and workers, and the epoch that all of them are in.

Runs in: the consumer and its workers.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Any, NamedTuple

import torch.distributed
from torch.utils.data import get_worker_info

from fastload._system.interruptions import own_suppressed


class StreamShare(NamedTuple):
    """A reader's place among all readers."""

    rank: int
    world_size: int
    worker: int
    workers: int

    def of(self, items: list[int]) -> list[int]:
        """The reader's items: those of its rank, dealt in turn, and of these its worker's."""
        return items[self.rank :: self.world_size][self.worker :: self.workers]


def this_share(rank: int, world_size: int) -> StreamShare:
    """The place of the calling process."""
    info = get_worker_info()
    worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
    return StreamShare(rank, world_size, worker, workers)


def this_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size: as given, of the process group, of torchrun, or 0 of 1.

    Raises:
        ValueError: Only one is given, or there is no such rank.
    """
    if (rank is None) != (world_size is None):
        raise ValueError(f"give both or none of rank ({rank}) and world_size ({world_size})")
    if rank is None or world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank = int(os.environ.get("RANK", "0"))
            world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is from 0 to world_size - 1 = {world_size - 1}, but got {rank}")
    return rank, world_size


def epoch_of(dataset: Any) -> int | None:
    """What ``set_epoch`` of a dataset was given, if the dataset keeps it as ``epoch``."""
    with own_suppressed(Exception):  # attributes of the user's, which torch doesn't look at
        if callable(dataset.set_epoch) and isinstance(dataset.epoch, int):
            return int(dataset.epoch)
    return None


class Epoch:
    """A number that forked workers see change, also those of other loaders than ours.

    A copy in another process has its own, and so has a child that sets it.
    """

    _FORM = struct.Struct("=q")

    def __init__(self, value: int = 0) -> None:
        self._memory = mmap.mmap(-1, self._FORM.size)
        self._owner = os.getpid()
        self.set(value)

    def set(self, value: int) -> None:
        """Change it, here and in children that were forked since and did not set it."""
        if self._owner != os.getpid():
            self._memory, self._owner = mmap.mmap(-1, self._FORM.size), os.getpid()
        self._FORM.pack_into(self._memory, 0, value)

    def get(self) -> int:
        """The number that was set last."""
        value: int = self._FORM.unpack_from(self._memory, 0)[0]
        return value

    def __reduce__(self) -> tuple[type[Epoch], tuple[int]]:
        return Epoch, (self.get(),)
