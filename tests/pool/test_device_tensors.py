"""A dataset with tensors on a GPU is refused before workers are forked; the error names them."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.utils.data import Dataset

from fastload import DataLoader
from fastload._pool import device_tensors


class Images(Dataset):
    """Keeps its images, and a transform with a table, wherever it is told."""

    def __init__(self, device):
        self.labels = torch.arange(8)
        self.parts = {"images": [torch.ones(8), torch.empty(8, device=device)]}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.labels[index]


def scaled(batch, table):
    return torch.stack(batch)


@pytest.fixture
def gpu(monkeypatch):
    """The "meta" device is taken for a GPU."""
    monkeypatch.setattr(device_tensors, "is_cuda_in_use", lambda: True)
    monkeypatch.setattr(device_tensors, "is_unusable", lambda tensor: tensor.is_meta)
    return "meta"


def test_attribute_is_named_with_the_cure(gpu) -> None:
    """At any depth; before a worker is started."""
    loader = DataLoader(Images(gpu), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(ValueError, match=r"^dataset\.parts\['images'\]\[1\] is a tensor on meta"):
        iter(loader)
    with pytest.raises(ValueError, match=r"device='meta'.* num_workers=0"):
        iter(loader)


def test_collate_function_is_looked_at_too(gpu) -> None:
    """It goes to the workers as well."""
    collate = functools.partial(scaled, table=torch.empty(3, device=gpu))
    options = {"num_workers": 1, "multiprocessing_context": "fork"}
    with pytest.raises(ValueError, match=r"^collate_fn\.keywords\['table'\] is a tensor on meta"):
        iter(DataLoader(Images("cpu"), collate_fn=collate, **options))


@pytest.mark.parametrize(
    "options", [{"num_workers": 0}, {"num_workers": 1, "worker_method": "thread"}]
)
def test_nothing_is_forked_and_nothing_refused(gpu, options) -> None:
    """In this process the tensors can be used."""
    batches = list(DataLoader(Images(gpu), batch_size=4, **options))
    assert torch.cat(batches).tolist() == list(range(8))


def test_dataset_on_the_cpu_is_loaded(gpu) -> None:
    """Also where CUDA is in use."""
    loader = DataLoader(Images("cpu"), 4, num_workers=1, multiprocessing_context="fork")
    assert torch.cat(list(loader)).tolist() == list(range(8))
