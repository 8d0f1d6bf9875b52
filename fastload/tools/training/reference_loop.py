"""The reference training loop, to be read from top to bottom.

    fastload train                                      # handwritten digits
    fastload train --task text --workers 2              # which package is this snippet from?
    fastload train --loader torch                       # the same losses, torch's loader

Runs in: consumer.
Takes: a `TrainingConfig`.
Gives: a `TrainingResult`. One seed gives the same losses to the last bit, whichever the loader.
"""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import fastload
from fastload.tools.training.config import Step, TrainingConfig, TrainingResult
from fastload.tools.training.training_tasks import TrainingTask, make_task

_LOADERS: dict[str, Callable[..., DataLoader[Any]]] = {
    "fastload": fastload.DataLoader,
    "torch": DataLoader,
}

T = TypeVar("T")


def train(
    config: TrainingConfig, on_step: Callable[[Step], None] = lambda _: None
) -> TrainingResult:
    """Train a task's module and test it on held-out data.

    Seeds the global generators of torch, NumPy and Python.

    Args:
        config: what to train.
        on_step: called after every step.
    """
    with _reproducible(config.seed), contextlib.ExitStack() as stack:
        task = make_task(config.task)
        module = task.module
        training = _open(stack, task, task.training, config, shuffle=True)
        held_out = _open(stack, task, task.held_out, config, shuffle=False)
        optimizer = torch.optim.AdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
        )
        loss_function = nn.CrossEntropyLoss(label_smoothing=0.05)
        stall = _StallClock()
        losses: list[float] = []
        samples = 0
        steps = config.epochs * len(training)

        module.train()
        started = perf_counter()
        for epoch in range(config.epochs):
            for *inputs, labels in stall.watch(training):
                optimizer.zero_grad()
                logits = module(*inputs)
                loss = loss_function(logits, labels)
                loss.backward()
                optimizer.step()

                losses.append(loss.item())
                samples += len(labels)
                stall_share = stall.stalled_s / (perf_counter() - started)
                on_step(Step(epoch, len(losses), steps, losses[-1], stall_share))
        elapsed_s = perf_counter() - started

        return TrainingResult(
            loss=float(np.mean(losses[-len(training) :])),
            accuracy=_accuracy(module, held_out),
            samples_per_s=samples / elapsed_s,
            stall_share=stall.stalled_s / elapsed_s,
            elapsed_s=elapsed_s,
            loss_history=tuple(losses),
        )


@torch.no_grad()
def _accuracy(module: nn.Module, batches: Iterable[Any]) -> float:
    """Return the share of samples whose most likely class is the right one."""
    module.eval()
    right = total = 0
    for *inputs, labels in batches:
        right += int((module(*inputs).argmax(dim=1) == labels).sum())
        total += len(labels)
    return right / total


class _StallClock:
    """Adds up how long the loop waits for batches, the start of the epoch included."""

    def __init__(self) -> None:
        self.stalled_s = 0.0

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, the time until each one counted."""
        started = perf_counter()
        for batch in batches:
            self.stalled_s += perf_counter() - started
            yield batch
            started = perf_counter()
        self.stalled_s += perf_counter() - started


def _open(
    stack: contextlib.ExitStack,
    task: TrainingTask,
    dataset: Dataset[Any],
    config: TrainingConfig,
    *,
    shuffle: bool,
) -> DataLoader[Any]:
    """Make a loader, closed with `stack` where it can be closed: torch's cannot."""
    loader = _LOADERS[config.loader](
        dataset,
        batch_size=config.batch_size,
        shuffle=shuffle,
        num_workers=config.workers,
        prefetch_factor=config.prefetch_factor if config.workers else None,
        collate_fn=task.collate_fn,
        persistent_workers=shuffle and config.workers > 0,
    )
    close = getattr(loader, "close", None)
    if close is not None:
        stack.callback(close)
    return loader


@contextlib.contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seed everything; add up in one order, which takes one thread and deterministic kernels."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)
