"""Which samples, in which order, on which rank.

Runs in: consumer.

torch's six, with torch's order and random numbers, at any scale; and samplers that torch lacks,
whose order follows from a seed and an epoch (``epochs``).
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
