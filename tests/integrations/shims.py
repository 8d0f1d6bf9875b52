"""What libraries that are not installed here do to a loader, in their place.

Each class or function does the reads, writes and calls of one library, as its source does them;
nothing of the library but that.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils.data
from torch.utils.data import DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

TorchLoader = torch.utils.data.DataLoader


def composer_check(loader: Any, world_size: int) -> None:
    """Composer's checks of a loader before training."""
    assert isinstance(loader, torch.utils.data.DataLoader)
    if loader._iterator is not None:
        raise ValueError("The dataloader has been iterated already")
    samplers = (loader.sampler, loader.batch_sampler)
    if world_size > 1 and not any(isinstance(s, DistributedSampler) for s in samplers):
        raise ValueError("The dataloader must use a distributed sampler")
    assert len(loader.dataset) > 0  # type: ignore[arg-type]


def composer_spin(loader: Any, epochs: int) -> None:
    """Composer's way to bring samplers to the epoch at which it resumes."""
    for _ in range(epochs):
        for _ in loader:
            break


def composer_close(loader: Any) -> None:
    """Composer's end of training."""
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator._shutdown_workers()


def ray_prepare(loader: Any, rank: int, world_size: int) -> Any:
    """Ray Train's loader for one of several processes: torch's class, with a sampler of its own."""
    if isinstance(loader.sampler, DistributedSampler) or isinstance(
        loader.dataset, IterableDataset
    ):
        return loader
    shuffle = not isinstance(loader.sampler, SequentialSampler)
    generator = loader.generator
    return TorchLoader(
        dataset=loader.dataset,
        batch_size=loader.batch_size,
        shuffle=False,
        sampler=DistributedSampler(
            loader.dataset, num_replicas=world_size, rank=rank, shuffle=shuffle
        ),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=generator,
    )


class RayWrapped(TorchLoader[Any]):
    """Ray Train's wrapper: the loader's attributes, its iterator, one batch ahead."""

    def __init__(self, base: Any) -> None:
        self.__dict__.update(base.__dict__)
        self.base = base

    def __len__(self) -> int:
        return len(self.base)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        iterator = iter(self.base)
        ahead = next(iterator, None)
        while ahead is not None:
            batch, ahead = ahead, next(iterator, None)
            yield batch


class Repeated:
    """timm's batch sampler without an end."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from iter(self.sampler)


def timm_multi_epochs(loader_class: type) -> type:
    """timm's loader that keeps its workers through all epochs, of any class of loader."""

    class MultiEpochs(loader_class):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._DataLoader__initialized = False
            self.batch_sampler = Repeated(self.batch_sampler)  # type: ignore[has-type]
            self._DataLoader__initialized = True
            self.iterator = super().__iter__()

        def __len__(self) -> int:
            return len(self.batch_sampler.sampler)

        def __iter__(self) -> Iterator[Any]:
            for _ in range(len(self)):
                yield next(self.iterator)

    return MultiEpochs


class TimmPrefetch:
    """timm's prefetcher: one batch behind, and attributes read through."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        previous = None
        for x, y in self.loader:
            if previous is not None:
                yield previous
            previous = x.float().div(255), y
        yield previous

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def sampler(self) -> Any:
        return self.loader.sampler

    @property
    def dataset(self) -> Any:
        return self.loader.dataset


class Endless(torch.utils.data.Sampler[Any]):
    """detectron2's sampler for training: one shuffled epoch after the other, without end."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(5)
        while True:
            yield from torch.randperm(self.length, generator=generator).tolist()


class FromSampler(IterableDataset[Any]):
    """detectron2's stream of a map-style dataset: each worker takes every n-th index."""

    def __init__(self, dataset: Any, sampler: Any) -> None:
        self.dataset = dataset
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in itertools.islice(self.sampler, start, None, step):
            yield self.dataset[index]


def detectron2_grouped(loader_class: type, dataset: Any, sampler: Any, workers: int) -> Any:
    """detectron2's loader for images of two aspect ratios: samples one by one, grouped after."""
    return loader_class(
        FromSampler(dataset, sampler),
        batch_sampler=None,
        num_workers=workers,
        collate_fn=operator.itemgetter(0),
        batch_size=1,
    )


class RepeatingLoader:
    """DeepSpeed's endless loader: `iter()` again after each StopIteration."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.iterator = iter(loader)

    def __iter__(self) -> RepeatingLoader:
        return self

    def __next__(self) -> Any:
        try:
            return next(self.iterator)
        except StopIteration:
            self.iterator = iter(self.loader)
            return next(self.iterator)


def deepspeed_loader(loader_class: type, dataset: Any, batch_size: int) -> Any:
    """DeepSpeed's loader of a dataset that was handed to `initialize`."""
    return loader_class(
        dataset,
        batch_size=batch_size,
        pin_memory=False,
        sampler=RandomSampler(dataset),
        collate_fn=None,
        num_workers=1,
        drop_last=False,
    )
