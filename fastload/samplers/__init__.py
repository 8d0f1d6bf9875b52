"""Which samples, in which order, on which rank.

Runs in: consumer.

torch's six, with torch's order and random numbers, at any scale; and samplers that torch lacks,
whose order follows from a seed and an epoch (``epochs``).
"""

from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from fastload.samplers.blocks import BlockShuffleSampler
from fastload.samplers.shuffle import ShuffleSampler

__all__ = [
    "BatchSampler",
    "BlockShuffleSampler",
    "DistributedSampler",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "ShuffleSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
]
