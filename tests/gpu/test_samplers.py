"""Samplers where torch draws on another device; needs a CUDA device."""

from __future__ import annotations

import pytest
import torch
import torch.utils.data as torch_data

import fastload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("RandomSampler", range(1000)),
        ("SubsetRandomSampler", range(1000)),
    ],
)
def test_a_generator_of_another_device_gives_torchs_order(name: str, argument: range) -> None:
    """As it is with ``torch.set_default_device``."""
    orders = []
    with torch.device("cuda"):
        for module in (fastload, torch_data):
            generator = torch.Generator("cuda").manual_seed(3)
            orders.append(list(getattr(module, name)(argument, generator=generator)))
    assert orders[0] == orders[1]


def test_weights_on_another_device_give_torchs_draws() -> None:
    """They are checked there too."""
    weights = torch.rand(1000, device="cuda")
    draws = []
    for module in (fastload, torch_data):
        torch.cuda.manual_seed(3)
        with torch.device("cuda"):
            draws.append(list(module.WeightedRandomSampler(weights, 500)))
    assert draws[0] == draws[1]
