"""Samplers: they say which samples are loaded, in which order, on which rank.

Runs in: consumer.

Six are torch's, with torch's order and random numbers at any scale. The others torch lacks; their
order follows from a seed and an epoch alone (``EpochSampler``), and ``shard`` deals any of them to
ranks.
"""

from torch.utils.data import BatchSampler, Sampler, SequentialSampler

from fastload.samplers.block_shuffle import BlockShuffleSampler
from fastload.samplers.distributed import DistributedSampler
from fastload.samplers.lengths import LengthGroupedBatchSampler
from fastload.samplers.random import RandomSampler
from fastload.samplers.sharding import Shard, shard
from fastload.samplers.shuffle import ShuffleSampler
from fastload.samplers.subset import SubsetRandomSampler
from fastload.samplers.tokens import TokenBudgetBatchSampler
from fastload.samplers.weighted import WeightedRandomSampler

__all__ = [
    "BatchSampler",
    "BlockShuffleSampler",
    "DistributedSampler",
    "LengthGroupedBatchSampler",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Shard",
    "ShuffleSampler",
    "SubsetRandomSampler",
    "TokenBudgetBatchSampler",
    "WeightedRandomSampler",
    "shard",
]
