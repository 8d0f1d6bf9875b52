"""Run in two processes: what Accelerate makes of torch's loader and of ours, as JSON."""

import json
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from torch.utils.data import BatchSampler, IterableDataset

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


CASES = {
    "in order": (Numbers, {"batch_size": 2}),
    "shuffled": (Numbers, {"batch_size": 2, "shuffle": True}),
    "drop_last": (Numbers, {"batch_size": 2, "drop_last": True}),
    "workers": (Numbers, {"batch_size": 3, "num_workers": 1}),
    "sampler of batches": (
        Numbers,
        {"batch_size": None, "sampler": BatchSampler(range(9), 2, drop_last=False)},
    ),
    "stream": (Stream, {"batch_size": 2}),
    "stream, workers": (Stream, {"batch_size": 2, "num_workers": 1}),
}


def rows(loader: Any) -> Any:
    return [batch.tolist() for batch in loader]


def seen(prepare: Any, skip: Any, loader_class: Any, accelerator: Any) -> Any:
    found = {}
    for name, (dataset, options) in CASES.items():
        torch.manual_seed(3)
        loader = prepare(accelerator, loader_class(dataset(), **options))  # type: ignore[arg-type]
        epochs = [rows(loader), rows(loader)]
        gathered = [accelerator.gather_for_metrics(batch).tolist() for batch in loader]
        skipped = rows(skip(loader, 1))
        found[name] = [epochs, gathered, skipped, len(loader) if dataset is Numbers else None]
    return found


def main() -> None:
    accelerator = Accelerator(cpu=True)
    expected = seen(
        lambda a, loader: a.prepare(loader),
        skip_first_batches,
        torch.utils.data.DataLoader,
        accelerator,
    )
    found = seen(ours.prepare, ours.skip_first_batches, fastload.DataLoader, accelerator)
    loader = ours.prepare(accelerator, fastload.DataLoader(Numbers(), memory_limit=1 << 20))
    print(
        json.dumps(
            {
                "world": accelerator.num_processes,
                "differ": [name for name in CASES if found[name] != expected[name]],
                "in order": found["in order"][0][0],
                "class": type(loader.base_dataloader).__module__,
                "memory_limit": loader.memory_limit,
                "resumes": resumes(),
            }
        )
    )
    accelerator.end_training()


def resumes() -> Any:
    """Whether a state saved in the middle of an epoch gives this rank the rest of its batches."""
    config = DataLoaderConfiguration(use_stateful_dataloader=True)
    accelerator = Accelerator(cpu=True, dataloader_config=config)

    def make() -> Any:
        torch.manual_seed(3)
        return ours.prepare(accelerator, fastload.DataLoader(Numbers(), 2, shuffle=True))

    loader, whole = make(), []
    for number, batch in enumerate(loader):
        whole.append(batch.tolist())
        if number == 1:
            state = loader.state_dict()
    again = make()
    again.load_state_dict(state)
    return rows(again) == whole[2:]


if __name__ == "__main__":
    main()
