"""Copies ahead on a real device; needs a CUDA device."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

import fastload
from fastload import DataLoader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


class Stamped(Dataset):
    """Large enough that a copy takes longer than its call."""

    def __len__(self):
        return 512

    def __getitem__(self, index):
        return {"image": torch.full((3, 224, 224), float(index)), "label": index}


def ways(**options):
    loader = DataLoader(Stamped(), batch_size=16, **options)
    return [
        fastload.prefetch(loader, "cuda", depth=1),
        fastload.prefetch(loader, "cuda", depth=4),
        DataLoader(Stamped(), batch_size=16, device="cuda", **options),
    ]


@pytest.mark.parametrize("pin_memory", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_arrives_whole_while_memory_is_used_again(workers, pin_memory) -> None:
    """Batches are dropped at once, while kernels still read them and copies still run."""
    for loader in ways(num_workers=workers, pin_memory=pin_memory):
        for _ in range(2):
            sums = []
            for batch in loader:
                heavy = batch["image"]
                for _ in range(20):  # so that kernels lag behind the program
                    heavy = heavy * 1.0
                sums.append((heavy.mean((1, 2, 3)), batch["label"]))
                del batch, heavy
            for mean, label in sums:
                assert mean.device.type == label.device.type == "cuda"
                assert torch.equal(mean.round().long(), label)


def test_state_counts_what_was_handed_out() -> None:
    """Not what was copied ahead."""
    for loader in ways(seed=7, shuffle=True):
        iterator = iter(loader)
        for _ in range(5):
            next(iterator)
        assert loader.state_dict()["position"] == 5 * 16


def test_cuda_tensor_of_a_dataset_is_named() -> None:
    """Before workers are forked."""
    dataset = Stamped()
    dataset.table = torch.ones(3, device="cuda")
    loader = DataLoader(dataset, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(ValueError, match=r"dataset\.table is a tensor on cuda:0"):
        iter(loader)
