"""How tensors of an unusual kind arrive."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

import fastload


@pytest.mark.parametrize(
    "tensor",
    [torch._efficientzerotensor((3,)), torch.empty(0, 4)],
    ids=["zeros without memory", "no elements"],
)
def test_a_tensor_without_memory_arrives(tensor):
    loader = fastload.DataLoader([tensor], batch_size=None, num_workers=1)

    (arrived,) = loader

    assert torch.equal(arrived, torch.zeros(tensor.shape))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 1, 4, 5).to(memory_format=torch.channels_last),
        torch.zeros(2, 3, 1, 1).to(memory_format=torch.channels_last),
        torch.zeros(15).as_strided((3, 1, 5), (5, 99, 1)),
        torch.zeros(5, 1).t().requires_grad_(),
    ],
)
def test_the_strides_of_dimensions_of_size_1_stay(tensor):
    """They say in which memory format torch makes what it computes from the tensor."""
    (arrived,) = fastload.DataLoader([tensor], batch_size=None, num_workers=1)

    assert arrived.stride() == tensor.stride()
    assert torch.equal(arrived, tensor)


@pytest.mark.parametrize("content", [[], [1.0, 2.0, 3.0]])
def test_a_storage_arrives(content):
    storage = torch.tensor(content).untyped_storage()

    (arrived,) = fastload.DataLoader([storage], batch_size=None, num_workers=1, collate_fn=same)

    assert type(arrived) is torch.UntypedStorage
    assert arrived.tolist() == storage.tolist()


def same(batch):
    return batch


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
def test_many_tensors_lie_side_by_side_in_memory_without_a_name():
    """No file, mapping or descriptor for each, and no file in /dev/shm that could be left there."""
    tensors = [torch.full((4,), float(k)) for k in range(128)]
    (batch,) = fastload.DataLoader([tensors], batch_size=None, num_workers=1)

    assert all(map(torch.equal, batch, tensors))
    addresses = [tensor.data_ptr() for tensor in batch]
    assert max(addresses) - min(addresses) < 128 * 64
    maps = re.findall(
        r"^(\w+)-(\w+) .{4} \w+ \S+ \d+ *(.*)$", Path("/proc/self/maps").read_text(), re.MULTILINE
    )
    (name,) = {
        name
        for begin, end, name in maps
        if any(int(begin, 16) <= address < int(end, 16) for address in addresses)
    }
    assert name == "/memfd:fastload (deleted)"


def test_a_small_view_takes_only_its_elements():
    """Not the storage behind it, however many are kept."""
    base = torch.arange(1 << 22)
    views = [base[100 * k : 100 * k + 10] for k in range(8)]
    loader = fastload.DataLoader(views, batch_size=None, num_workers=1)

    kept = list(loader)

    assert all(map(torch.equal, kept, views))
    assert {view.untyped_storage().nbytes() for view in kept} == {80}
    assert loader.stats().shared_bytes == 8 * 80
