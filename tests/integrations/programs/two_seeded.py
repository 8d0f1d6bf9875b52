"""Run in two processes: a loader with ``seed=`` behind Accelerate, as JSON."""

import json
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import IterableDataset

import fastload
from fastload.integrations import accelerate as ours


class Numbers(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> Any:
        return torch.tensor(index)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(torch.arange(11))


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "in order": (Numbers, {"batch_size": 2}),
    "shuffled": (Numbers, {"batch_size": 2, "shuffle": True}),
    "workers": (Numbers, {"batch_size": 3, "shuffle": True, "num_workers": 1}),
    "stream": (Stream, {"batch_size": 2}),
}


def main() -> None:
    accelerator = Accelerator(cpu=True)
    found = {}
    for name, (dataset, options) in CASES.items():
        loader = ours.prepare(accelerator, fastload.DataLoader(dataset(), seed=7, **options))
        epochs = []
        for _ in range(2):
            batches = [accelerator.gather(batch).tolist() for batch in loader]
            epochs.append([number for batch in batches for number in batch][:11])
        gathered = [accelerator.gather_for_metrics(batch).tolist() for batch in loader]
        alone = fastload.DataLoader(
            dataset(), seed=7, num_replicas=1, rank=0, **{**options, "num_workers": 0}
        )
        found[name] = {
            "epochs": epochs,
            "gathered": [number for batch in gathered for number in batch],
            "alone": [torch.cat(list(alone)).tolist() for _ in range(2)],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
