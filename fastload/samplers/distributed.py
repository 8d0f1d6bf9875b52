"""torch's distributed order of positions, in less memory; samplers in place of data are refused.

Runs in: consumer, on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch.utils.data
from torch.utils.data import Sampler

from fastload.samplers.random import in_chunks, permutation

T_co = TypeVar("T_co", covariant=True)


class DistributedSampler(torch.utils.data.DistributedSampler[T_co]):
    """torch's ``DistributedSampler``: the same indices on each rank for a fraction of the memory.

    Raises:
        TypeError: ``dataset`` is a sampler. torch takes its length for a dataset's and yields
            positions, not what the sampler would have drawn; ``fastload.shard`` deals the latter.

    Example:
        >>> sampler = DistributedSampler(range(5), num_replicas=2, rank=1, shuffle=False)
        >>> list(sampler)
        [1, 3, 0]
    """

    def __init__(
        self,
        dataset: Any,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if isinstance(dataset, Sampler):
            raise TypeError(
                f"DistributedSampler deals positions of a dataset, but got the sampler "
                f"{type(dataset).__name__}, whose draws it would ignore; use "
                f"fastload.shard(sampler, rank, world_size)"
            )
        super().__init__(dataset, num_replicas, rank, shuffle, seed, drop_last)

    def __iter__(self) -> Iterator[T_co]:
        # The order is computed now, not at the first index, as torch does.
        length = len(self.dataset)  # type: ignore[arg-type]
        if length != self.total_size and (length < self.total_size) == self.drop_last:
            raise AssertionError(
                f"this sampler was made for {self.total_size} indices over all ranks, but the "
                f"dataset has length {length} now; make a new sampler"
            )
        places = np.arange(self.rank, self.total_size, self.num_replicas) % max(length, 1)
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed(self.seed + self.epoch)
            places = permutation(length, generator)[places]
        return chain.from_iterable(in_chunks(places))  # type: ignore[arg-type]
