"""An Accelerate training script: prepare, accumulate, gather, skip what was done before."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        for number in range(10):
            yield torch.full((2,), float(number))


def main() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    set_seed(5)
    x = torch.randn(50, 3)
    dataset = TensorDataset(x, x.sum(1, keepdim=True))
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader, stream = accelerator.prepare(
        model,
        optimizer,
        DataLoader(dataset, batch_size=8, shuffle=True, num_workers=2),
        DataLoader(Stream(), batch_size=4),
    )
    for epoch in range(3):
        batches = accelerator.skip_first_batches(loader, 4) if epoch == 2 else loader
        for inputs, targets in batches:
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(inputs), targets)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            print(epoch, repr(loss.item()), accelerator.sync_gradients)
    print([accelerator.gather_for_metrics(batch).tolist() for batch in stream])
    print(torch.rand(1).item())


if __name__ == "__main__":
    main()
