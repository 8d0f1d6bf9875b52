"""The loaders of the reference training: fastload's or torch's, for one rank or several.

Runs in: consumer.
Takes: a task's dataset and the options of the training.
Gives: a loader of this rank's batches, whose `mask()` says which samples count.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import fastload
from fastload.tools.training.config import TrainingConfig
from fastload.tools.training.ranks import Ranks
from fastload.tools.training.training_tasks import TrainingTask


@contextlib.contextmanager
def open_loader(
    task: TrainingTask,
    dataset: Dataset[Any],
    config: TrainingConfig,
    ranks: Ranks,
    *,
    shuffle: bool,
) -> Iterator[Any]:
    """Make a loader of a dataset; its workers end with the block."""
    options: dict[str, Any] = {
        "batch_size": config.batch_size,
        "num_workers": config.workers,
        "prefetch_factor": config.prefetch_factor if config.workers else None,
        "collate_fn": task.collate_fn,
        "persistent_workers": config.workers > 0,
    }
    if config.stream:
        # One stream of samples, dealt to the ranks: all take equally many steps, and the loader
        # says which samples only fill the last one.
        with fastload.DataLoader(
            dataset, shuffle=shuffle, seed=config.seed, even="mask", **options
        ) as loader:
            yield loader
    elif ranks.size > 1:
        sampler: Any = DistributedSampler(dataset, shuffle=shuffle, seed=config.seed)
        yield DealtByTorch(DataLoader(dataset, sampler=sampler, **options), sampler)
    elif config.loader == "torch":
        yield DataLoader(dataset, shuffle=shuffle, **options)
    else:
        with fastload.DataLoader(dataset, shuffle=shuffle, **options) as loader:
            yield loader


class DealtByTorch:
    """Torch's loader with torch's `DistributedSampler`: begins each epoch, and knows the fillers.

    The sampler deals index by index: place `i` of rank `r` is place `i * ranks + r` of the epoch,
    which is filled by samples of its beginning until all ranks have equally many.
    """

    def __init__(self, loader: DataLoader[Any], sampler: Any) -> None:
        self.epoch = 0
        self._loader = loader
        self._sampler = sampler
        self._places = range(0)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        self._sampler.set_epoch(self.epoch)  # else each epoch has the order of the first
        size = self._loader.batch_size or 1
        for number, batch in enumerate(self._loader):
            places = range(self._sampler.num_samples)
            self._places = places[number * size : (number + 1) * size]
            yield batch
        self.epoch += 1

    def mask(self) -> torch.Tensor:
        """Return which samples of the newest batch are no fillers: bool `(batch,)`."""
        places = torch.tensor(self._places, device="cpu")
        ranks, rank = self._sampler.num_replicas, self._sampler.rank
        mask: torch.Tensor = places * ranks + rank < len(self._sampler.dataset)
        return mask
