"""Run in two processes: a loader with ``seed=`` behind Accelerate, as JSON."""

import json
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
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
        return iter(torch.randperm(11))


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "in order": (Numbers, {"batch_size": 2}),
    "shuffled": (Numbers, {"batch_size": 2, "shuffle": True}),
    "workers": (Numbers, {"batch_size": 3, "shuffle": True, "num_workers": 1}),
    "stream": (Stream, {"batch_size": 2}),
}


def main() -> None:
    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(use_stateful_dataloader=True)
    )
    found = {}
    for name, (dataset, options) in CASES.items():
        loader = ours.prepare(accelerator, fastload.DataLoader(dataset(), seed=7, **options))
        epochs = [gathered(accelerator, loader) for _ in range(2)]
        metrics = [accelerator.gather_for_metrics(batch).tolist() for batch in loader]
        alone = fastload.DataLoader(
            dataset(), seed=7, num_replicas=1, rank=0, **{**options, "num_workers": 0}
        )
        found[name] = {
            "epochs": epochs,
            "gathered": [number for batch in metrics for number in batch],
            "alone": [torch.cat(list(alone)).tolist() for _ in range(2)],
            "resumed": resumed(accelerator, dataset, options),
            "skipped": skipped(accelerator, dataset, options),
        }
    print(json.dumps(found))


def gathered(accelerator: Any, loader: Any) -> Any:
    """The samples of an epoch, without what fills its last step."""
    batches = [accelerator.gather(batch).tolist() for batch in loader]
    return [number for batch in batches for number in batch][:11]


def resumed(accelerator: Any, dataset: Any, options: Any) -> Any:
    """Two epochs, of which the first was interrupted after a step and saved by the first rank."""
    loader = ours.prepare(accelerator, fastload.DataLoader(dataset(), seed=7, **options))
    before: list[int] = []
    states = [None]
    for batch in loader:
        if not before:
            before = accelerator.gather(batch).tolist()
            states = [loader.state_dict()]  # the loop goes on, as ranks that wait would hang
    torch.distributed.broadcast_object_list(states, src=0)
    again = ours.prepare(accelerator, fastload.DataLoader(dataset(), seed=7, **options))
    again.load_state_dict(states[0])
    rest = gathered(accelerator, again)[: 11 - len(before)]
    return [before + rest, gathered(accelerator, again)]


def skipped(accelerator: Any, dataset: Any, options: Any) -> Any:
    """The samples of the second epoch behind its first step."""
    loader = ours.prepare(accelerator, fastload.DataLoader(dataset(), seed=7, **options))
    loader = ours.skip_first_batches(loader, 1)
    loader.set_epoch(1)
    rest = gathered(accelerator, loader)
    return rest[: 11 - 2 * options["batch_size"]]


if __name__ == "__main__":
    main()
