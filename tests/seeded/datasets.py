"""Datasets that draw from whatever can be drawn from, and what they are compared by."""

from __future__ import annotations

import random
from itertools import zip_longest

import numpy as np
import torch
from torch.utils.data import Dataset

import fastload


class Drawing(Dataset):
    """A sample is its index and numbers of the generators that are named.

    Args:
        length: Number of samples.
        kinds: Which generators it draws from, of ``EVERYTHING``.
        rarely: Draw for every seventh index only.
    """

    def __init__(self, length, kinds=("python", "numpy", "torch"), *, rarely=False):
        self.length = length
        self.kinds = kinds
        self.rarely = rarely
        self.generator = np.random.default_rng(1)
        self.random_state = np.random.RandomState(1)
        self.inner = [torch.Generator(), {"own": random.Random(1)}]

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        drawn = [0.0] * len(self.kinds)
        if not self.rarely or index % 7 == 0:
            drawn = [getattr(self, f"_{kind}")() for kind in self.kinds]
        return torch.tensor([index, *drawn], dtype=torch.float64)

    def _python(self):
        return random.gauss(0, 1)

    def _numpy(self):
        return np.random.normal()

    def _torch(self):
        return torch.randn((), dtype=torch.float64).item()

    def _generator(self):
        return self.generator.random()

    def _random_state(self):
        return self.random_state.normal()

    def _own_torch(self):
        return torch.rand((), generator=self.inner[0]).item()

    def _own_python(self):
        return self.inner[1]["own"].random()


EVERYTHING = ("python", "numpy", "torch", "generator", "random_state", "own_torch", "own_python")


class Many(Drawing):
    """Loads a batch by one call too."""

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def joined(dataset, *, ranks=1, epochs=2, **options):
    """The stream of each epoch ``(epochs, samples, fields)``: batches of all ranks, in order."""
    parts = []
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


def states_of_the_program():
    """The global generators' states, as something that can be compared."""
    numpy_state = np.random.get_state(legacy=False)
    return (
        random.getstate(),
        numpy_state["state"]["key"].tobytes(),
        {key: value for key, value in numpy_state.items() if key != "state"},
        torch.get_rng_state().numpy().tobytes(),
    )
