"""The reference training loop, to be read from top to bottom.

    fastload train                                      # handwritten digits
    fastload train --task text --workers 2              # which package is this snippet from?
    fastload train --loader torch                       # the same losses, torch's loader
    fastload train --stream --checkpoint run.pt --resume   # the same losses after any interruption
    fastload train --encoder run.pt                     # transfer learning: train the head alone
    fastload train --precision bfloat16 --accumulate 4  # mixed precision, larger steps
    torchrun --nproc-per-node 2 -m fastload train       # one model, over two ranks

Runs in: consumer.
Takes: a `TrainingConfig`.
Gives: a `TrainingResult`. One seed gives the same losses to the last bit, whichever the loader.
    With `stream`, which needs ours, also whatever the number of workers, and after interruptions.
"""

import contextlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fastload.tools.training.checkpoint import Checkpoint, take_over_encoder
from fastload.tools.training.config import Step, TrainingConfig, TrainingResult
from fastload.tools.training.history import History, StallClock
from fastload.tools.training.loaders import open_loader
from fastload.tools.training.ranks import Ranks, joined_ranks, rank_count
from fastload.tools.training.training_tasks import make_task


def train(
    config: TrainingConfig, on_step: Callable[[Step], None] = lambda _: None
) -> TrainingResult:
    """Train a task's module and test it on held-out data after each epoch.

    Seeds the global generators of torch, NumPy and Python.

    Args:
        config: what to train.
        on_step: called after every step.
    """
    _check_ranks(config)
    with _reproducible(config.seed), joined_ranks() as ranks:
        return _train(config, ranks, on_step)


def _train(config: TrainingConfig, ranks: Ranks, on_step: Callable[[Step], None]) -> TrainingResult:
    """Train, as one of the ranks; all that refers to their connections is gone at the end."""
    with contextlib.ExitStack() as stack:
        # The module. Every rank draws the same weights, because all have the same seed.
        task = make_task(config.task)
        module = task.module
        if config.encoder is not None:
            take_over_encoder(module, config.task, config.encoder)

        # The data.
        training, held_out = (
            stack.enter_context(open_loader(task, dataset, config, ranks, shuffle=shuffle))
            for dataset, shuffle in ((task.training, True), (task.held_out, False))
        )

        # What is frozen is left out: without a gradient, the optimizer must not touch it.
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=config.learning_rate)
        criterion = nn.CrossEntropyLoss(label_smoothing=0.05, reduction="none")
        mixed_precision = torch.autocast(
            "cpu", torch.bfloat16, enabled=config.precision == "bfloat16"
        )

        # Where a run before was interrupted, also in the middle of an epoch.
        history = History()
        checkpoint = Checkpoint(config, ranks, module, optimizer, training, history)
        checkpoint.resume()
        parallel = ranks.wrap(module)
        first_epoch: int = getattr(training, "epoch", 0)  # torch's loader has none
        if first_epoch > len(history.accuracies):  # interrupted just after an epoch
            history.accuracies.append(_accuracy(module, held_out, ranks))

        steps_per_epoch = -(-len(training) // config.accumulate)
        clock = StallClock()
        samples = 0
        for epoch in range(first_epoch, config.epochs):
            module.train()
            for batches in clock.watch(_steps(training, ranks, config.accumulate)):
                step_samples = ranks.sum(sum(int(batch.counted.sum()) for batch in batches))
                loss = 0.0
                optimizer.zero_grad()
                for batch in batches:
                    # The ranks exchange gradients once a step, with those of its last batch.
                    is_last = batch is batches[-1]
                    with contextlib.nullcontext() if is_last else ranks.without_exchange(parallel):
                        with mixed_precision:
                            losses = criterion(parallel(*batch.inputs), batch.labels)
                        part = (losses * batch.counted).sum() / step_samples
                        # Over the ranks gradients are averaged, while these parts add up.
                        (part * ranks.size).backward()
                    loss += part.item()
                optimizer.step()

                clock.step_ends()
                samples += int(step_samples)
                history.losses.append(ranks.sum(loss))
                history.stalls.append(clock.newest_share)
                checkpoint.after_step()
                on_step(
                    Step(
                        epoch,
                        len(history.losses),
                        config.epochs * steps_per_epoch,
                        history.losses[-1],
                        clock.stall_share,
                    )
                )
            history.accuracies.append(_accuracy(module, held_out, ranks))
        checkpoint.save()

        return TrainingResult(
            loss=float(np.mean(history.losses[-steps_per_epoch:])),
            accuracy=history.accuracies[-1],
            samples_per_s=samples / clock.elapsed_s if samples else 0.0,
            stall_share=clock.stall_share if samples else 0.0,
            elapsed_s=clock.elapsed_s,
            samples=samples,
            ranks=ranks.size,
            loss_history=tuple(history.losses),
            stall_history=tuple(history.stalls),
            accuracy_history=tuple(history.accuracies),
        )


class _Batch(NamedTuple):
    """A batch of this rank; `counted` `(samples,)` says which samples are no fillers."""

    inputs: list[torch.Tensor]
    labels: torch.Tensor
    counted: torch.Tensor


def _steps(loader: Iterable[Any], ranks: Ranks, accumulate: int) -> Iterator[list[_Batch]]:
    """Yield the batches of each step; the last step of an epoch may have fewer."""
    batches = (
        _Batch(inputs, labels, ranks.counted(len(labels), loader)) for *inputs, labels in loader
    )
    while step := list(itertools.islice(batches, accumulate)):
        yield step


@torch.no_grad()
def _accuracy(module: nn.Module, loader: Iterable[Any], ranks: Ranks) -> float:
    """Return the share of samples, over all ranks, whose most likely class is the right one."""
    module.eval()
    right = total = 0
    for step in _steps(loader, ranks, 1):
        for inputs, labels, counted in step:
            right += int(((module(*inputs).argmax(dim=1) == labels) & counted).sum())
            total += int(counted.sum())
    return ranks.sum(right) / ranks.sum(total)


def _check_ranks(config: TrainingConfig) -> None:
    if rank_count() > 1 and config.loader == "fastload" and not config.stream:
        raise ValueError(
            f"{rank_count()} ranks (WORLD_SIZE) need stream: otherwise each one would train on all "
            f"samples; give stream=True"
        )


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
