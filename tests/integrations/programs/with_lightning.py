"""A Lightning training script: a data module, validation, a checkpoint and a second fit."""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Points(lightning.LightningDataModule):
    def setup(self, stage: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(60, 4, generator=generator)
        self.points = TensorDataset(x, x.sum(1, keepdim=True))

    def train_dataloader(self) -> Any:
        return DataLoader(
            self.points, batch_size=8, shuffle=True, num_workers=2, persistent_workers=True
        )

    def val_dataloader(self) -> Any:
        return DataLoader(self.points, batch_size=20, num_workers=1)


class Line(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)

    def training_step(self, batch: Any, number: Any) -> Any:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        print(self.current_epoch, number, repr(loss.item()))
        return loss

    def validation_step(self, batch: Any, number: Any) -> None:
        self.log("error", nn.functional.l1_loss(self.net(batch[0]), batch[1]))

    def on_validation_epoch_end(self) -> None:
        print("error", self.trainer.callback_metrics["error"].item())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(folder: Any, epochs: Any, checkpoint: Any = None) -> None:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, filename="last")],
    )
    trainer.fit(Line(), datamodule=Points(), ckpt_path=checkpoint)


if __name__ == "__main__":
    lightning.seed_everything(3, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        fit(folder, 1)
        print("again")
        fit(folder, 2, Path(folder) / "last.ckpt")
