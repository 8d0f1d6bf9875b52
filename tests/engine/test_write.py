"""Tensors that have no memory of their own to copy from."""

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
