"""Give a Hugging Face ``Trainer`` fastload's loaders, with options that torch's do not have.

Runs in: consumer.
Takes: a ``transformers.Trainer``, or one of a derived class, and options of our loader.
Gives: the same trainer, whose loaders for training, evaluation and prediction are ours.

A trainer makes its loaders from its arguments and lets Accelerate make them again. What comes of
that is read here, and a loader of ours for the same data takes its place, as
``fastload.integrations.accelerate`` does it. Without options, ``fastload.patch`` is enough.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch.utils.data
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler, SequentialSampler

from fastload.dataloader import DataLoader
from fastload.integrations import accelerate

__all__ = ["use_fastload"]

T = TypeVar("T")

_MAKERS = ("get_train_dataloader", "get_eval_dataloader", "get_test_dataloader")

_KEPT = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
    "in_order",
)


def use_fastload(trainer: T, **options: Any) -> T:
    """Make all loaders of a trainer fastload's.

    With ``seed=`` the batches follow from seed, epoch and position, also where the trainer goes on
    from a checkpoint, with any number of workers and ranks. A random sampler of the trainer's
    then means ``shuffle=True``; any other sampler is given to the loader. Batches that the trainer
    skips at a resume are not loaded: for this, the name ``skip_first_batches`` in the module
    ``transformers.trainer`` is replaced by that of ``fastload.integrations.accelerate``, which
    treats loaders that are not ours as before.

    Args:
        trainer: A ``transformers.Trainer``, or of a derived class.
        **options: Of ``fastload.DataLoader``, such as ``seed=7`` or ``memory_limit=2**30``.

    Returns:
        The trainer itself.

    Example:
        >>> import torch
        >>> from transformers import Trainer, TrainingArguments
        >>> data = [{"x": torch.ones(2)}] * 5
        >>> args = TrainingArguments(use_cpu=True, per_device_train_batch_size=2)
        >>> trainer = use_fastload(Trainer(torch.nn.Linear(2, 1), args, train_dataset=data), seed=7)
        >>> loader = trainer.get_train_dataloader()
        >>> isinstance(loader, DataLoader), loader.seed, len(loader)
        (True, 7, 3)
    """
    from transformers import trainer as module

    names = vars(module)
    if "skip_first_batches" in names:
        names["skip_first_batches"] = accelerate.skip_first_batches
    for name in _MAKERS:
        setattr(trainer, name, _MakesOurs(getattr(trainer, name), options))
    return trainer


class _MakesOurs:
    """A trainer's method that makes a loader, and puts one of ours in its place."""

    def __init__(self, make: Any, options: dict[str, Any]) -> None:
        self.make = make
        self.options = options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        prepared = self.make(*args, **kwargs)
        made = vars(prepared).get("base_dataloader")
        if made is not None and not isinstance(made, DataLoader):
            accelerate._put_in(prepared, _like(made, self.options))
        return prepared


def _like(made: torch.utils.data.DataLoader[Any], options: dict[str, Any]) -> DataLoader[Any]:
    """A loader of ours for the same data as one of torch's that Accelerate made."""
    kept = {name: getattr(made, name) for name in _KEPT if hasattr(made, name)}
    if isinstance(made.dataset, IterableDataset):
        order: dict[str, Any] = {"batch_size": made.batch_size, "drop_last": made.drop_last}
    elif options.get("seed") is None:
        order = {"batch_sampler": made.batch_sampler}
    else:
        order = _before_sharding(made.batch_sampler)
    return DataLoader(made.dataset, **{**kept, **order, **options})


def _before_sharding(batches: Any) -> dict[str, Any]:
    """What said order and batches before Accelerate dealt them to ranks."""
    batches = getattr(batches, "batch_sampler", batches)
    if type(batches) is not BatchSampler:
        return {"batch_sampler": batches}
    sampler: Any = batches.sampler
    order: dict[str, Any] = {"batch_size": batches.batch_size, "drop_last": batches.drop_last}
    if isinstance(sampler, SequentialSampler):
        return {**order, "shuffle": False}
    if isinstance(sampler, RandomSampler) and not sampler.replacement:
        return {**order, "shuffle": True}
    return {**order, "sampler": sampler}
