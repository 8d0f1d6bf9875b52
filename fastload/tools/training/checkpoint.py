"""A reference training on disk, from which a later run goes on with equal losses.

Runs in: consumer.
Takes: what a training step changes: the module, its optimizer, the loader's place, the losses.
Gives: one file, whole at any moment, whenever the program is killed.

Nothing in it depends on the number of workers or ranks, so the run that goes on may have others.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastload.tools.training.config import TaskName, TrainingConfig
from fastload.tools.training.history import History
from fastload.tools.training.module import Classifier
from fastload.tools.training.ranks import Ranks

_DECIDES = ("task", "seed", "learning_rate", "precision", "encoder")
"""Settings that a run has to share with the one it goes on from."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The file of a training, and what is saved in it.

    Attributes:
        config: names the file, and how often it is written.
        ranks: the first of them writes and reads.
        module: the module in training, not wrapped for several ranks.
        optimizer: of the module's parameters.
        loader: of the training samples; it says where its stream stands.
        history: what the training has seen; `resume` fills it.
    """

    config: TrainingConfig
    ranks: Ranks
    module: nn.Module
    optimizer: torch.optim.Optimizer
    loader: Any
    history: History

    def resume(self) -> None:
        """Go on from the file, if that is wanted and there is one.

        Raises:
            ValueError: the file is of a training with other settings.
        """
        if self.config.checkpoint is None or not self.config.resume:
            return
        path, state = Path(self.config.checkpoint), None
        if self.ranks.rank == 0 and path.exists():
            state = torch.load(path, weights_only=True)
        state = self.ranks.same(state)
        if state is not None:
            self._load(state)

    def after_step(self) -> None:
        """Save, each time so many steps have been taken."""
        if len(self.history.losses) % self.config.checkpoint_every == 0:
            self.save()

    def save(self) -> None:
        """Replace the file, if one is wanted, by the training as it stands between two steps."""
        if self.config.checkpoint is None or self.ranks.rank != 0:
            return
        state = {
            "config": {name: getattr(self.config, name) for name in _DECIDES},
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loader": self.loader.state_dict(),
            **asdict(self.history),
            # The dataset's draws follow from the loader's seed; a module with dropout has its own.
            "generator": torch.get_rng_state(),
        }
        write_whole(Path(self.config.checkpoint), state)

    def _load(self, state: dict[str, Any]) -> None:
        for name in _DECIDES:
            ours, theirs = getattr(self.config, name), state["config"][name]
            if ours != theirs:
                raise ValueError(
                    f"{self.config.checkpoint} is of a training with {name} {theirs!r}, this one "
                    f"has {name} {ours!r}; give the same one, or another file"
                )
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        self.history.losses[:] = state["losses"]
        self.history.stalls[:] = state["stalls"]
        self.history.accuracies[:] = state["accuracies"]
        torch.set_rng_state(state["generator"])


def take_over_encoder(module: Classifier, task: TaskName, checkpoint: str) -> None:
    """Give a module the encoder of another training, frozen; what stands above it stays new.

    Raises:
        ValueError: the file is of a training of another task, whose encoder is another one.
    """
    state = torch.load(checkpoint, weights_only=True)
    if state["config"]["task"] != task:
        raise ValueError(
            f"the encoder in {checkpoint} is of task {state['config']['task']!r} and does not fit "
            f"task {task!r}; give a checkpoint of the same task"
        )
    prefix = "encoder."
    module.encoder.load_state_dict(
        {
            name.removeprefix(prefix): weights
            for name, weights in state["module"].items()
            if name.startswith(prefix)
        }
    )
    module.encoder.requires_grad_(False)


def write_whole(path: Path, state: dict[str, Any]) -> None:
    """Write a file so that at each moment, under its name, there is the old one or the new one.

    The new one is written beside it under another name, brought to the disk, and then renamed; a
    program that is killed meanwhile leaves the old one.
    """
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a power cut could lose the rename
    finally:
        os.close(folder)
