"""fastload: the data loader one gets by changing an import.

from fastload import DataLoader          # was: from torch.utils.data import DataLoader
"""

from torch.utils.data import get_worker_info

from fastload.collate import default_collate, default_convert
from fastload.dataloader import DataLoader
from fastload.datasets import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from fastload.errors import (
    FastloadError,
    ForeignProcessError,
    LoadingTimeout,
    WorkerDied,
    WorkerError,
)
from fastload.samplers import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from fastload.stats import Stats

__version__ = "0.1.0"

__all__ = [
    "BatchSampler",
    "ChainDataset",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "DistributedSampler",
    "FastloadError",
    "ForeignProcessError",
    "IterableDataset",
    "LoadingTimeout",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "StackDataset",
    "Stats",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "WeightedRandomSampler",
    "WorkerDied",
    "WorkerError",
    "default_collate",
    "default_convert",
    "get_worker_info",
    "random_split",
]
