"""The reference training loop, to be read from top to bottom.

    fastload train                                      # handwritten digits
    fastload train --task text --workers 2              # which package is this snippet from?
    fastload train --loader torch                       # the same losses, torch's loader
    fastload train --stream --checkpoint run.pt --resume   # the same losses after any interruption
    torchrun --nproc-per-node 2 -m fastload train --stream

Runs in: consumer.
Takes: a `TrainingConfig`.
Gives: a `TrainingResult`. One seed gives the same losses to the last bit, whichever the loader.
    With `stream`, which needs ours, also whatever the number of workers, and after interruptions.
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
from fastload.tools.training.checkpoint import Checkpoint
from fastload.tools.training.config import Step, TrainingConfig, TrainingResult
from fastload.tools.training.ranks import Ranks, joined_ranks, rank_count
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
    _check_ranks(config)
    with (
        _reproducible(config.seed),
        joined_ranks() as ranks,
        contextlib.ExitStack() as stack,
    ):
        task = make_task(config.task)
        module = task.module
        training = _open(stack, task, task.training, config, shuffle=True)
        held_out = _open(stack, task, task.held_out, config, shuffle=False)
        optimizer = torch.optim.AdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
        )
        stall = _StallClock()
        losses: list[float] = []
        samples = 0
        checkpoint = Checkpoint(config, ranks, module, optimizer, training, losses)
        checkpoint.resume()
        parallel = ranks.wrap(module)
        first_epoch: int = getattr(training, "epoch", 0)  # torch's loader has none
        steps = config.epochs * len(training)

        module.train()
        started = perf_counter()
        for epoch in range(first_epoch, config.epochs):
            for *inputs, labels in stall.watch(training):
                optimizer.zero_grad()
                logits = parallel(*inputs)
                loss: Any = ranks.loss(logits, labels, training)
                loss.backward()
                optimizer.step()

                losses.append(ranks.sum(loss.item()) / ranks.size)
                samples += int(ranks.counted(len(labels), training).sum())
                stall_share = stall.stalled_s / (perf_counter() - started)
                checkpoint.after_step()
                on_step(Step(epoch, len(losses), steps, losses[-1], stall_share))
        elapsed_s = perf_counter() - started
        checkpoint.save()

        samples = int(ranks.sum(samples))
        return TrainingResult(
            loss=float(np.mean(losses[-len(training) :])),
            accuracy=_accuracy(module, held_out, ranks),
            samples_per_s=samples / elapsed_s,
            stall_share=stall.stalled_s / elapsed_s,
            elapsed_s=elapsed_s,
            samples=samples,
            loss_history=tuple(losses),
        )


def _check_ranks(config: TrainingConfig) -> None:
    if rank_count() > 1 and not config.stream:
        raise ValueError(
            f"{rank_count()} ranks (WORLD_SIZE) need stream: otherwise each one would train on all "
            f"samples; give --stream"
        )


@torch.no_grad()
def _accuracy(module: nn.Module, batches: Iterable[Any], ranks: Ranks) -> float:
    """Return the share of samples, over all ranks, whose most likely class is the right one."""
    module.eval()
    right = total = 0
    for *inputs, labels in batches:
        counted = ranks.counted(len(labels), batches)
        right += int(((module(*inputs).argmax(dim=1) == labels) & counted).sum())
        total += int(counted.sum())
    return ranks.sum(right) / ranks.sum(total)


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
        **({"seed": config.seed, "even": "mask"} if config.stream else {}),
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
