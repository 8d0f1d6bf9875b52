"""A training script that knows only torch: maps, streams, samplers, workers, augmentation."""

import argparse
import random
import sys
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    WeightedRandomSampler,
    get_worker_info,
    random_split,
)


class Images(Dataset[Any]):
    """Made-up images, augmented at random with three libraries' generators."""

    def __init__(self, length: int = 96) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(length, 1, 8, 8, generator=generator)
        self.labels = (self.images.mean((1, 2, 3)) > 0).long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image = self.images[index] + 0.1 * torch.randn(1, 8, 8)
        if random.random() < 0.5:
            image = image.flip(-1)
        scale = np.random.uniform(0.9, 1.1)
        return {"image": image * scale, "label": self.labels[index], "name": f"image {index}"}


class Words(IterableDataset[Any]):
    """Lines of different length, shared out among the workers."""

    def __iter__(self) -> Any:
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in range(start, 20, step):
            yield torch.arange(1 + number % 5)


def pad(lines: Any) -> Any:
    return nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=-1)


def train(model: Any, loader: Any, optimizer: Any) -> None:
    for batch in loader:
        loss = nn.functional.cross_entropy(model(batch["image"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        print(f"  {loss.item()!r} {batch['name'][0]}")


@torch.no_grad()
def accuracy(model: Any, loader: Any) -> Any:
    return sum(int((model(b["image"]).argmax(1) == b["label"]).sum()) for b in loader)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--persistent", action="store_true")
    args = parser.parse_args()
    print(sys.argv[1:], __name__, __file__ == sys.argv[0])
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    training, validation = random_split(Images(), [72, 24])
    workers = {"num_workers": args.workers, "persistent_workers": args.persistent}
    weights = [1.0 + (k % 3) for k in range(len(training))]
    loaders = [
        DataLoader(training, batch_size=16, shuffle=True, **workers),
        DataLoader(
            training, 16, sampler=WeightedRandomSampler(weights, 32), drop_last=True, **workers
        ),
    ]
    val_loader = DataLoader(validation, batch_size=24, **workers)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for epoch in range(2):
        print(f"epoch {epoch}, {len(loaders[epoch])} batches")
        train(model, loaders[epoch], optimizer)
        print("  right:", accuracy(model, val_loader))
    for batch in DataLoader(Words(), batch_size=3, collate_fn=pad, num_workers=args.workers):
        print(batch.tolist())
    print(torch.rand(1).item(), np.random.rand(), random.random())


if __name__ == "__main__":
    main()
