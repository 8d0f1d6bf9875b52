"""The reference training for `fastload profile`: its loaders and its steps, as functions.

    profiled=fastload.tools.training.profiled
    fastload profile $profiled:text --train $profiled:text_step

Runs in: consumer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import fastload
from fastload.tools.training.config import TaskName, TrainingConfig
from fastload.tools.training.training_tasks import make_task

_CONFIG = TrainingConfig()


def digits() -> fastload.DataLoader[Any]:
    """Return the loader of `fastload train --task digits`."""
    return _loader("digits")


def text() -> fastload.DataLoader[Any]:
    """Return the loader of `fastload train --task text`."""
    return _loader("text")


def digits_step() -> Callable[[Any], None]:
    """Return the training step of `fastload train --task digits`."""
    return _step("digits")


def text_step() -> Callable[[Any], None]:
    """Return the training step of `fastload train --task text`."""
    return _step("text")


def _loader(name: TaskName) -> fastload.DataLoader[Any]:
    task = make_task(name)
    return fastload.DataLoader(
        task.training,
        batch_size=_CONFIG.batch_size,
        shuffle=True,
        num_workers=_CONFIG.workers,
        collate_fn=task.collate_fn,
        persistent_workers=True,
    )


def _step(name: TaskName) -> Callable[[Any], None]:
    torch.set_num_threads(1)  # as in the reference loop, which adds up in one order
    module = make_task(name).module
    optimizer = torch.optim.AdamW(module.parameters(), lr=_CONFIG.learning_rate)
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.05)
    module.train()

    def step(batch: Any) -> None:
        *inputs, labels = batch
        optimizer.zero_grad()
        loss = loss_function(module(*inputs), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step
