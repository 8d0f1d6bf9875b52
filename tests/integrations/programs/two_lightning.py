"""Run in two processes: what Lightning and Fabric make of torch's loader and of ours, as JSON."""

import json
import logging
import warnings
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments import TorchElasticEnvironment  # type: ignore[attr-defined]
from torch import nn
from torch.utils.data import DistributedSampler, TensorDataset

import fastload

warnings.simplefilter("ignore")
logging.getLogger("lightning").setLevel(logging.ERROR)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Line(lightning.LightningModule):
    def __init__(self, loader_class: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Linear(2, 1)
        self.loader_class = loader_class
        self.losses: list[float] = []

    def train_dataloader(self) -> Any:
        x = torch.randn(22, 2, generator=torch.Generator().manual_seed(0))
        options = {} if self.loader_class is not fastload.DataLoader else {"memory_limit": 1 << 20}
        return self.loader_class(
            TensorDataset(x, x.sum(1, keepdim=True)),
            batch_size=4,
            shuffle=True,
            num_workers=1,
            **options,
        )

    def training_step(self, batch: Any, number: Any) -> Any:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(loader_class: Any) -> Any:
    torch.manual_seed(2)
    module = Line(loader_class)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        plugins=TorchElasticEnvironment(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    return module.losses, trainer.train_dataloader


def main() -> None:
    expected, _ = fit(torch.utils.data.DataLoader)
    losses, loader = fit(fastload.DataLoader)
    fabric = lightning.Fabric(
        accelerator="cpu", devices=2, strategy="ddp", plugins=TorchElasticEnvironment()
    )
    fabric.launch()
    wrapped = fabric.setup_dataloaders(
        fastload.DataLoader(range(10), batch_size=2, memory_limit=1 << 20)  # type: ignore[arg-type]
    )
    print(
        json.dumps(
            {
                "same": losses == expected,
                "losses": losses,
                "class": type(loader).__module__,
                "memory_limit": loader.memory_limit,
                "is_distributed": isinstance(loader.sampler, DistributedSampler),
                "fabric class": type(wrapped._dataloader).__module__,  # type: ignore[union-attr]
                "fabric memory_limit": wrapped._dataloader.memory_limit,  # type: ignore[union-attr]
                "fabric rows": [batch.tolist() for batch in wrapped],  # type: ignore[union-attr]
            }
        )
    )


if __name__ == "__main__":
    main()
