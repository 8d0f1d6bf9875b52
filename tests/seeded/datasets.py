"""Datasets that draw from whatever can be drawn from, and what they are compared by."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

import fastload


class Drawing(Dataset[torch.Tensor]):
    """A sample is its index and numbers of the generators that are named.

    Args:
        length: Number of samples.
        kinds: Which generators it draws from, of ``EVERYTHING``.
        rarely: Draw for every seventh index only.
    """

    def __init__(
        self,
        length: int,
        kinds: Sequence[str] = ("python", "numpy", "torch"),
        *,
        rarely: bool = False,
    ) -> None:
        self.length = length
        self.kinds = kinds
        self.rarely = rarely
        self.generator = np.random.default_rng(1)
        self.random_state = np.random.RandomState(1)
        self.inner: list[Any] = [torch.Generator(), {"own": random.Random(1)}]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = [0.0] * len(self.kinds)
        if not self.rarely or index % 7 == 0:
            drawn = [getattr(self, f"_{kind}")() for kind in self.kinds]
        return torch.tensor([index, *drawn], dtype=torch.float64)

    def _python(self) -> float:
        return random.gauss(0, 1)

    def _numpy(self) -> float:
        return float(np.random.normal())

    def _torch(self) -> float:
        return float(torch.randn((), dtype=torch.float64).item())

    def _generator(self) -> float:
        return float(self.generator.random())

    def _random_state(self) -> float:
        return float(self.random_state.normal())

    def _own_torch(self) -> float:
        return float(torch.rand((), generator=self.inner[0]).item())

    def _own_python(self) -> float:
        return float(self.inner[1]["own"].random())


EVERYTHING = ("python", "numpy", "torch", "generator", "random_state", "own_torch", "own_python")


class Many(Drawing):
    """Loads a batch by one call too."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


def joined(
    dataset: Dataset[torch.Tensor], *, ranks: int = 1, epochs: int = 2, **options: Any
) -> list[torch.Tensor]:
    """The stream of each epoch ``(epochs, samples, fields)``: batches of all ranks, in order."""
    parts: list[list[Any]] = []
    for rank in range(ranks):
        loader = fastload.DataLoader(
            dataset, seed=7, num_replicas=ranks, rank=rank, even="none", **options
        )
        with loader:
            parts.append([list(loader) for _ in range(epochs)])
    return [
        torch.cat([batch for step in zip_longest(*epoch) for batch in step if batch is not None])
        for epoch in zip(*parts, strict=True)
    ]


def states_of_the_program() -> tuple[Any, ...]:
    """The global generators' states, as something that can be compared."""
    numpy_state: Any = np.random.get_state(legacy=False)
    return (
        random.getstate(),
        numpy_state["state"]["key"].tobytes(),
        {key: value for key, value in numpy_state.items() if key != "state"},
        torch.get_rng_state().numpy().tobytes(),
    )
