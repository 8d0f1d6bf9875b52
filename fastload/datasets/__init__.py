"""Datasets: torch's own, and ones on arrays, Arrow and Parquet files and shared containers.

Runs in: worker (consumer with ``num_workers=0``).

All but the shared containers are read a batch at a time where the loader can. What needs pyarrow,
and what decodes images, is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from torch.utils.data import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)

from fastload.datasets.arrays import ArrayDataset
from fastload.datasets.shared import SharedDict, SharedList

if TYPE_CHECKING:
    from fastload.datasets.arrow import ArrowDataset
    from fastload.datasets.image_dataset import ImageDataset
    from fastload.datasets.image_folder import ImageFolder
    from fastload.datasets.parquet import ParquetDataset
    from fastload.datasets.stream import ParquetStream
    from fastload.datasets.tar_dataset import TarDataset
    from fastload.datasets.tar_stream import TarStream
    from fastload.datasets.writing import write_arrow, write_parquet

__all__ = [
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
    "write_arrow",
    "write_parquet",
]

_HOMES = {
    "ArrowDataset": "fastload.datasets.arrow",
    "ImageDataset": "fastload.datasets.image_dataset",
    "ImageFolder": "fastload.datasets.image_folder",
    "ParquetDataset": "fastload.datasets.parquet",
    "ParquetStream": "fastload.datasets.stream",
    "TarDataset": "fastload.datasets.tar_dataset",
    "TarStream": "fastload.datasets.tar_stream",
    "write_arrow": "fastload.datasets.writing",
    "write_parquet": "fastload.datasets.writing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastload.datasets' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
