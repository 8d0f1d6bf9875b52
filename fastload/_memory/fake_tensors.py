"""Make batches under torch's ``FakeTensorMode``, where tensors have shape and dtype but no content.

Runs in: consumer.
Takes: a function that makes a batch of real tensors.
Gives: the same batch of fake tensors, as torch's own collate function makes it under that mode.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fastload._torch_private import fake_mode, without_dispatch_modes


@contextlib.contextmanager
def real_tensors() -> Iterator[None]:
    """Make tensors real that are created in the block, also under ``FakeTensorMode``."""
    if fake_mode() is None:
        yield
        return
    with without_dispatch_modes():
        yield


class DrawnReal:
    """Wraps a sampler's iterator so that it draws real numbers also under ``FakeTensorMode``."""

    def __init__(self, indices: Iterator[Any]) -> None:
        self._indices = indices

    def __iter__(self) -> DrawnReal:
        return self

    def __next__(self) -> Any:
        with real_tensors():
            return next(self._indices)


def with_fake_tensors(make: Callable[[], Any]) -> Any:
    """Return the batch that ``make`` gives, with fake tensors under ``FakeTensorMode``."""
    mode = fake_mode()
    if mode is None:
        return make()
    with without_dispatch_modes():
        batch = make()
        return tree_map(
            lambda leaf: mode.from_tensor(leaf) if type(leaf) is Tensor else leaf, batch
        )


def stand_ins(samples: Any) -> Any:
    """Return the samples with zeros of the same shape and dtype in place of each fake tensor."""

    def stand_in(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and type(leaf) is not Tensor:
            return torch.zeros(leaf.shape, dtype=leaf.dtype, device="cpu")
        return leaf

    return tree_map(stand_in, samples)
