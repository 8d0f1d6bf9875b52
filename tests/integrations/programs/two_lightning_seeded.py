"""Run in two processes, or in one: Lightning trains with ``seed=``; losses as JSON.

A fit of three epochs saves a checkpoint after each step; another goes on from one of them.
"""

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments import TorchElasticEnvironment  # type: ignore[attr-defined]
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import Dataset

import fastload

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

GLOBAL_BATCH = 8


class Noisy(Dataset[Any]):
    """Points of a line with random noise, and their numbers."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        x = index / 24 + 0.1 * torch.randn(2)
        return x, x.sum().reshape(1), index


class Line(lightning.LightningModule):
    """Notes loss and sample numbers of each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Linear(2, 1)
        self.steps: list[Any] = []

    def training_step(self, batch: Any, number: Any) -> Any:
        x, y, numbers = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.steps.append([self.current_epoch, number, loss.item(), numbers.tolist()])
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    folder: Path,
    ranks: int = 1,
    checkpoint: Any = None,
    workers: int = 0,
    wrap: Any = lambda loader: loader,
    **options: Any,
) -> Any:
    """Train; the steps that this rank took, and the loader that Lightning used."""
    module = Line()
    loader = fastload.DataLoader(
        Noisy(),
        batch_size=GLOBAL_BATCH // ranks,
        shuffle=True,
        seed=7,
        num_workers=workers,
        memory_limit=1 << 20,
    )
    several: Any = {"strategy": "ddp", "plugins": TorchElasticEnvironment()} if ranks > 1 else {}
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=ranks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        ],
        **several,
        **options,
    )
    trainer.fit(module, wrap(loader), ckpt_path=checkpoint)
    return module.steps, trainer.train_dataloader


def main() -> None:
    folder, checkpoint = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    steps, loader = fit(folder, int(os.environ["WORLD_SIZE"]), checkpoint, workers=1)
    print(
        json.dumps(
            {
                "steps": steps,
                "class": type(loader).__module__,
                "seed": loader.seed,
                "memory_limit": loader.memory_limit,
                "sampler": type(loader.sampler).__name__,
            }
        )
    )


if __name__ == "__main__":
    main()
