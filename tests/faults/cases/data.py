"""Datasets and samplers that are not what they say."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, TensorDataset, WeightedRandomSampler

from tests.faults.case import ALL, fault
from tests.faults.trial import Made, Stamped, Trial


class Strict(Stamped):
    """Checks its indices."""

    def __getitem__(self, index: int) -> torch.Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} of {self.length}")
        return super().__getitem__(index)


@fault(108, "a sampler gives an index beyond the dataset", expect="IndexError: index 70.*70")
def index_beyond_the_dataset(trial: Trial) -> str:
    return trial.read(trial.loader(Strict(), sampler=[0, 1, 2, 3, 4, 70, 6, 7]))


@fault(109, "a sampler gives negative indices", expect=r"\[7, 6, 0, 7\]")
def negative_indices(trial: Trial) -> str:
    dataset = TensorDataset(torch.arange(8))
    (batch,) = trial.loader(dataset, sampler=[-1, -2, 0, 7])
    return str(batch[0].tolist())


@fault(110, "weights of a sampler are not numbers", expect="(RuntimeError|ValueError): ")
def weights_are_not_numbers(trial: Trial) -> str:
    return trial.read(trial.loader(sampler=WeightedRandomSampler([1.0, float("nan")], 4)))


@fault(
    112,
    "a dataset shrinks while it is read",
    expect="IndexError: index 32 of 32",
)
def dataset_shrinks(trial: Trial) -> str:
    dataset = Strict()

    class Sampler:
        def __iter__(self) -> Iterator[int]:
            return iter(range(64))

    def init(worker_id: int) -> None:
        torch.utils.data.get_worker_info().dataset.length = 32  # type: ignore[union-attr]

    return trial.read(trial.loader(dataset, sampler=Sampler(), worker_init_fn=init))


@fault(113, "an empty dataset", expect="^nothing$")
def empty_dataset(trial: Trial) -> str:
    return trial.read(trial.loader(Stamped(length=0)))


@fault(113, "an empty dataset, shuffled", expect="ValueError: num_samples should be a positive")
def empty_dataset_shuffled(trial: Trial) -> str:
    return trial.read(trial.loader(Stamped(length=0), shuffle=True))


class Unsharded(IterableDataset[Any]):
    """Gives the same to each worker."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter([torch.full((4,), float(k)) for k in range(64)])


@fault(114, "a stream that does not shard itself, two workers", expect=r"^128 samples \(64 twice")
def stream_without_sharding(trial: Trial) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trial.read(trial.loader(Unsharded()))


@fault(
    120,
    "a state that is not one is loaded",
    expect="^ValueError",
    is_for_torch=False,
)
def nonsense_state(trial: Trial) -> str:
    trial.loader().load_state_dict({"position": -1, "anything": [1]})
    return "accepted"


@fault(
    121,
    "the state of a loader of another dataset is loaded",
    expect="^ValueError",
    is_for_torch=False,
)
def foreign_state(trial: Trial) -> str:
    other = trial.loader(Stamped(length=10), shuffle=True)
    iterator = iter(other)
    next(iterator)
    loader = trial.loader(shuffle=True)
    loader.load_state_dict(other.state_dict())
    return trial.read(loader)


@fault(
    122,
    "an epoch is left and resumed at each of its 16 batches",
    expect=f"^{ALL}, 16 times$",
    is_for_torch=False,
    deadline_s=30,
)
def resume_at_every_batch(trial: Trial) -> str:
    wrong: list[str] = []
    for left_at in range(16):
        torch.manual_seed(left_at)
        first = trial.loader(Made(lambda k: torch.full((4,), float(k))), shuffle=True)
        ids: list[int] = []
        iterator = iter(first)
        for _ in range(left_at):
            ids += [int(row[0]) for row in next(iterator)]
        state = first.state_dict()
        del iterator
        second: Any = trial.loader(Made(lambda k: torch.full((4,), float(k))), shuffle=True)
        second.load_state_dict(state)
        trial.read(second)
        if sorted(ids + trial.ids) != list(range(64)):
            wrong.append(f"{left_at}: {ids} and {trial.ids}")
    return f"{ALL}, 16 times" if not wrong else "; ".join(wrong)
