"""How tensors of an unusual kind arrive."""

from __future__ import annotations

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
