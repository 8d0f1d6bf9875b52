"""Loads in which it counts who loads what, and when: slow samples, first batches, short epochs."""

import time
from typing import Any

import torch

from fastload.tools.bench.workload import Recipe
from fastload.tools.bench.workloads.latency import Requests

SEED = 0
AHEAD = 4
"""Batches for each worker where samples are unequal, so that the others have something to do."""

SLOWER = 100
STRAGGLERS = 0.01
USUAL_S = 0.001
FIRST_BATCH_S = 0.02
OVERLAP_S = 0.002
_HURRY = 0.05
"""Of the waiting, how much is left while batches are compared."""


class Stragglers(Requests):
    """Samples of which a few, drawn once and for all, take longer than the others.

    Args:
        samples: how many there are.
        latency_s: seconds that a usual one takes.
        share: how much of all is slow, between 0 and 1.
        slower: how many times as long a slow one takes.
    """

    def __init__(
        self,
        samples: int,
        latency_s: float = USUAL_S,
        share: float = STRAGGLERS,
        slower: float = SLOWER,
    ) -> None:
        super().__init__(samples, latency_s)
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
        self.slow = frozenset(order[: round(share * samples)].tolist())
        self.slower = slower

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index in self.slow:
            time.sleep(self.latency_s * (self.slower - 1))
        return super().__getitem__(index)


def stragglers_usual(samples: int) -> Recipe:
    """A hundredth of the samples is slow; each worker has batches of its own."""
    return Recipe(Stragglers(samples), {"prefetch_factor": AHEAD})


def stragglers_own(samples: int) -> Recipe:
    """The same with one queue for all workers."""
    return Recipe(Stragglers(samples), {"prefetch_factor": AHEAD, "seed": SEED})


def first_batch_usual(samples: int) -> Recipe:
    """Each batch takes one worker more than a second."""
    return _sooner(Recipe(Requests(samples, FIRST_BATCH_S)))


def first_batch_own(samples: int) -> Recipe:
    """The same with several workers on one batch."""
    options: dict[str, Any] = {"seed": SEED, "workers_per_batch": "auto"}
    return _sooner(Recipe(Requests(samples, FIRST_BATCH_S), options))


def epochs_overlap_usual(samples: int) -> Recipe:
    """Workers are kept, and idle until the next epoch begins."""
    return Recipe(Requests(samples, OVERLAP_S))


def epochs_overlap_own(samples: int) -> Recipe:
    """The same where the next epoch begins before this one has ended."""
    return Recipe(Requests(samples, OVERLAP_S), {"seed": SEED})


def _sooner(recipe: Recipe) -> Recipe:
    """Let batches be compared in less time than they take."""
    waiting: Requests = recipe.dataset
    hurried = Requests(waiting.samples, waiting.latency_s * _HURRY)
    return Recipe(recipe.dataset, recipe.options, to_compare=hurried)
