"""fastload: the data loader one gets by changing an import.

from fastload import DataLoader          # was: from torch.utils.data import DataLoader

Names are imported when they are first used, so the command line can answer without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import get_worker_info

    from fastload._device.prefetcher import prefetch
    from fastload.collate import (
        Masked,
        Pack,
        Packed,
        Pad,
        Padded,
        PadDict,
        Ragged,
        default_collate,
        default_convert,
        pack,
        pad,
        pad_dict,
        ragged,
    )
    from fastload.dataloader import DataLoader
    from fastload.datasets import (
        ArrayDataset,
        ArrowDataset,
        ChainDataset,
        ConcatDataset,
        Dataset,
        ImageDataset,
        ImageFolder,
        IterableDataset,
        ParquetDataset,
        ParquetStream,
        SharedDict,
        SharedList,
        StackDataset,
        Subset,
        TarDataset,
        TarStream,
        TensorDataset,
        random_split,
    )
    from fastload.errors import (
        CollateError,
        CorruptDataError,
        FastloadError,
        ForeignProcessError,
        LoadingInterrupted,
        LoadingTimeout,
        TooManyErrors,
        WorkerDied,
        WorkerError,
    )
    from fastload.patching import patch, patched, unpatch
    from fastload.samplers import (
        BatchSampler,
        BlockShuffleSampler,
        DistributedSampler,
        LengthGroupedBatchSampler,
        RandomSampler,
        Sampler,
        SequentialSampler,
        Shard,
        ShuffleSampler,
        SubsetRandomSampler,
        TokenBudgetBatchSampler,
        WeightedRandomSampler,
        shard,
    )
    from fastload.sources import Cached
    from fastload.stats.snapshot import SkippedSample, Stats

__version__ = "0.1.0"

_HOMES = {
    "torch.utils.data": ("get_worker_info",),
    "fastload._device.prefetcher": ("prefetch",),
    "fastload.collate": (
        "Masked",
        "Pack",
        "Packed",
        "Pad",
        "PadDict",
        "Padded",
        "Ragged",
        "default_collate",
        "default_convert",
        "pack",
        "pad",
        "pad_dict",
        "ragged",
    ),
    "fastload.dataloader": ("DataLoader",),
    "fastload.datasets": (
        "ArrayDataset",
        "ArrowDataset",
        "ChainDataset",
        "ConcatDataset",
        "Dataset",
        "ImageDataset",
        "ImageFolder",
        "IterableDataset",
        "ParquetDataset",
        "ParquetStream",
        "SharedDict",
        "SharedList",
        "StackDataset",
        "Subset",
        "TarDataset",
        "TarStream",
        "TensorDataset",
        "random_split",
    ),
    "fastload.errors": (
        "CollateError",
        "CorruptDataError",
        "FastloadError",
        "ForeignProcessError",
        "LoadingInterrupted",
        "LoadingTimeout",
        "TooManyErrors",
        "WorkerDied",
        "WorkerError",
    ),
    "fastload.patching": ("patch", "patched", "unpatch"),
    "fastload.samplers": (
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
    ),
    "fastload.sources": ("Cached",),
    "fastload.stats": ("SkippedSample", "Stats"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ArrayDataset",
    "ArrowDataset",
    "BatchSampler",
    "BlockShuffleSampler",
    "Cached",
    "ChainDataset",
    "CollateError",
    "ConcatDataset",
    "CorruptDataError",
    "DataLoader",
    "Dataset",
    "DistributedSampler",
    "FastloadError",
    "ForeignProcessError",
    "ImageDataset",
    "ImageFolder",
    "IterableDataset",
    "LengthGroupedBatchSampler",
    "LoadingInterrupted",
    "LoadingTimeout",
    "Masked",
    "Pack",
    "Packed",
    "Pad",
    "PadDict",
    "Padded",
    "ParquetDataset",
    "ParquetStream",
    "Ragged",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Shard",
    "SharedDict",
    "SharedList",
    "ShuffleSampler",
    "SkippedSample",
    "StackDataset",
    "Stats",
    "Subset",
    "SubsetRandomSampler",
    "TarDataset",
    "TarStream",
    "TensorDataset",
    "TokenBudgetBatchSampler",
    "TooManyErrors",
    "WeightedRandomSampler",
    "WorkerDied",
    "WorkerError",
    "default_collate",
    "default_convert",
    "get_worker_info",
    "pack",
    "pad",
    "pad_dict",
    "patch",
    "patched",
    "prefetch",
    "ragged",
    "random_split",
    "shard",
    "unpatch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fastload' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
