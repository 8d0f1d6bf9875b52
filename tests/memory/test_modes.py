"""Batches while something changes what torch's functions do in the training process."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

import fastload

WAYS = [
    *((0, None), (1, "fork"), (1, "forkserver")),
    pytest.param(1, "spawn", marks=pytest.mark.exhaustive),
]


class Samples(Dataset):
    """Numbers, an array, and tensors of which some have no element."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        return index, float(index), np.full(3, index), torch.full((2, index % 2), float(index))


class Growing(Dataset):
    """Sequences of different lengths."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.arange(index + 1)


def shapes(batch) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize(("workers", "method"), WAYS)
@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        (Samples(), {"batch_size": 1}),
        (Samples(), {"batch_size": 1, "shuffle": True}),
        (Samples(), {"batch_size": 2, "collate_fn": list}),
        (Growing(), {"batch_size": 4, "collate_fn": fastload.pad}),
        (Growing(), {"batch_size": 4, "collate_fn": fastload.pack}),
    ],
    ids=["default", "shuffled", "list", "pad", "pack"],
)
def test_batches_are_fake_under_fake_tensor_mode(workers, method, dataset, options) -> None:
    """They have the shapes of real ones, wherever they were made, and the process lives."""
    options = options | {"num_workers": workers, "multiprocessing_context": method}
    loader = fastload.DataLoader(dataset, **options)
    real = [shapes(batch) for batch in loader]

    with FakeTensorMode():
        fake = list(loader)

    assert sorted(map(shapes, fake)) == sorted(real)
    leaves = [leaf for leaf in tree_leaves(fake) if isinstance(leaf, torch.Tensor)]
    assert all(type(leaf) is FakeTensor for leaf in leaves)


def test_mode_entered_after_the_epoch_began_makes_batches_fake() -> None:
    """Workers that run already know nothing of it."""
    for workers in (0, 1):
        iterator = iter(fastload.DataLoader(Samples(), batch_size=1, num_workers=workers))
        with FakeTensorMode():
            batch = next(iterator)
        assert all(type(leaf) is FakeTensor for leaf in batch)
        assert type(next(iterator)[0]) is torch.Tensor


@pytest.mark.parametrize(("workers", "method"), WAYS[1:])
@pytest.mark.parametrize(
    "collate_fn", [None, list, fastload.ragged], ids=["default", "list", "ragged"]
)
def test_batches_of_workers_lie_on_the_cpu_whatever_the_default_device(
    workers, method, collate_fn
) -> None:
    """Also tensors without elements, and what a nested tensor is made of."""
    dataset = Growing() if collate_fn is fastload.ragged else Samples()
    batch_size = 2 if collate_fn is not None else 1
    iterator = iter(
        fastload.DataLoader(
            dataset,
            batch_size=batch_size,
            num_workers=workers,
            multiprocessing_context=method,
            collate_fn=collate_fn,
        )
    )

    with torch.device("meta"):
        batches = list(iterator)

    leaves = [leaf for leaf in tree_leaves(batches) if isinstance(leaf, torch.Tensor)]
    assert leaves
    assert {leaf.device.type for leaf in leaves} == {"cpu"}


@pytest.mark.parametrize(
    "collate_fn", [fastload.pad, fastload.pack, fastload.ragged], ids=["pad", "pack", "ragged"]
)
def test_collate_functions_of_ours_take_no_notice_of_the_default_device(collate_fn) -> None:
    """Sequences are on the CPU, so is what is made of them."""
    with torch.device("meta"):
        collated = collate_fn([[1, 2, 3], [], [4.5]])

    leaves = [leaf for leaf in tree_leaves(collated) if isinstance(leaf, torch.Tensor)]
    assert {leaf.device.type for leaf in leaves} == {"cpu"}


class Logged(torch.overrides.TorchFunctionMode):
    """A mode that changes nothing."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Traced(torch.utils._python_dispatch.TorchDispatchMode):
    """The same, one level below."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("mode", [Logged, Traced, torch.inference_mode])
def test_values_are_the_same_under_modes_that_change_nothing(workers, mode) -> None:
    """Whoever watches torch's operations gets the batches he would get without."""
    loader = fastload.DataLoader(Samples(), batch_size=1, num_workers=workers)
    expected = list(loader)

    with mode():
        found = list(loader)
        is_same = [
            torch.equal(one, other)
            for one, other in zip(tree_leaves(found), tree_leaves(expected), strict=True)
        ]

    assert all(is_same)
