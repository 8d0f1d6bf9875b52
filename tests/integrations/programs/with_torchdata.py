"""A script for torchdata's StatefulDataLoader beside torch's own loader."""

import torch
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader


def main() -> None:
    dataset = TensorDataset(torch.arange(20.0))
    for workers in (0, 2):
        torch.manual_seed(4)
        loader = StatefulDataLoader(dataset, batch_size=3, shuffle=True, num_workers=workers)
        iterator = iter(loader)
        print([next(iterator)[0].tolist() for _ in range(3)])
        state = loader.state_dict()
        rest = [batch.tolist() for [batch] in iterator]
        torch.manual_seed(4)
        again = StatefulDataLoader(dataset, batch_size=3, shuffle=True, num_workers=workers)
        again.load_state_dict(state)
        print(rest, [batch.tolist() for [batch] in again] == rest)
        print([batch.tolist() for [batch] in again])
        print(isinstance(loader, DataLoader), len(loader))
    torch.manual_seed(4)
    print([b.tolist() for [b] in DataLoader(dataset, batch_size=6, shuffle=True, num_workers=1)])


if __name__ == "__main__":
    main()
