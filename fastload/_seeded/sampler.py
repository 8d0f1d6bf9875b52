"""``loader.sampler`` of a loader with ``seed=`` that makes its own order.

Runs in: consumer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DistributedSampler

from fastload._seeded.options import StreamOptions
from fastload._seeded.replicas import ranks_of
from fastload._seeded.steps import Steps
from fastload._seeded.stream_order import ComputedOrder
from fastload.samplers.epochs import nested


def is_dealt(batch_sampler: Any) -> bool:
    """Whether a batch sampler takes its indices from one that a loader with ``seed=`` made.

    Lightning makes such a one for predictions. It has the samples of its rank alone, so the loader
    must not deal its batches to ranks again.
    """
    return any(isinstance(each, StreamSampler) for each in nested(batch_sampler))


class StreamSampler(DistributedSampler[int]):
    """The indices of one rank, in order or shuffled, as a loader with ``seed=`` delivers them.

    It is a ``DistributedSampler`` by type, so that trainers neither replace nor shard it, and what
    they tell its ``set_epoch`` counts as the loader's. The loader itself does not iterate over it.

    Attributes:
        deals_for: The loader's seed, ranks and step.
        dataset: The loader's dataset.
        shuffle: Whether the order is shuffled.
        epoch: The epoch of the next pass.
    """

    def __init__(self, options: StreamOptions, dataset: Any, *, shuffle: bool) -> None:
        self.deals_for = options
        self.dataset: Any = dataset
        self.shuffle = shuffle
        self.epoch = 0
        self.seed: Any = options.seed
        self.drop_last = options.drop_last

    @property
    def num_replicas(self) -> int:  # type: ignore[override]  # torch's is set once
        """Number of ranks, as it is now."""
        return ranks_of(self.deals_for)[0]

    @property
    def rank(self) -> int:  # type: ignore[override]  # torch's is set once
        """This rank, as it is now."""
        return ranks_of(self.deals_for)[1]

    def __len__(self) -> int:
        return sum(block.samples + block.fillers for block in self._steps())

    def __iter__(self) -> Iterator[int]:
        order = ComputedOrder(len(self.dataset), self.seed if self.shuffle else None)
        for indices in order.indices(self.epoch, self._steps()):
            yield from indices.tolist()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = epoch

    def _steps(self) -> Steps:
        options, length = self.deals_for, len(self.dataset)
        return Steps(
            length,
            0,
            options.batch_size or 1,
            self.num_replicas,
            self.rank,
            drop_last=self.drop_last,
            even=options.even,
        )
