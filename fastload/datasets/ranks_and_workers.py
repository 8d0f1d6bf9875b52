"""Say who reads what of a stream: its ranks and workers, and the epoch that all of them are in.

Runs in: the consumer and its workers.
Takes: the rank and world size that the user gave, torch's process group, the environment.
Gives: this process's share of a stream's parts, and the number of the epoch.
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
    """A reader's place among all readers: a rank of how many, a worker of how many."""

    rank: int
    world_size: int
    worker: int
    workers: int

    def of(self, items: list[int]) -> list[int]:
        """Return the reader's items: its worker's of those of its rank, each dealt in turn."""
        return items[self.rank :: self.world_size][self.worker :: self.workers]


def this_share(rank: int, world_size: int) -> StreamShare:
    """Return the place of the calling process."""
    info = get_worker_info()
    worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
    return StreamShare(rank, world_size, worker, workers)


def this_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and world size: as given, of the process group, of torchrun, or 0 of 1.

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
    """Return what ``set_epoch`` of a dataset was given, if the dataset keeps it as ``epoch``."""
    with own_suppressed(Exception):  # attributes of the user's, which torch doesn't look at
        # Most datasets have neither, and an exception at each epoch would take longer than getattr.
        epoch = getattr(dataset, "epoch", None)
        if isinstance(epoch, int) and callable(getattr(dataset, "set_epoch", None)):
            return int(epoch)
    return None


class Epoch:
    """A number that forked workers see change, also those of other loaders than ours.

    A copy in another process has its own number, and so has a child that sets it.
    """

    _FORM = struct.Struct("=q")

    def __init__(self, value: int = 0) -> None:
        self._memory = mmap.mmap(-1, self._FORM.size)
        self._owner = os.getpid()
        self.set(value)

    def set(self, value: int) -> None:
        """Change the number, here and in children that were forked since and did not set it."""
        if self._owner != os.getpid():
            self._memory, self._owner = mmap.mmap(-1, self._FORM.size), os.getpid()
        self._FORM.pack_into(self._memory, 0, value)

    def get(self) -> int:
        """Return the number that was set last."""
        value: int = self._FORM.unpack_from(self._memory, 0)[0]
        return value

    def __reduce__(self) -> tuple[type[Epoch], tuple[int]]:
        return Epoch, (self.get(),)
