"""Into how many parts the next batch is cut, so that several workers load it together.

Runs in: consumer.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from torch.utils.data import IterableDataset

from fastload._seeded.streams import loads_items
from fastload._wire.task_queue import MOST_PARTS
from fastload.samplers.epochs import natural

WorkersPerBatch = int | Literal["auto"]

LEAST_PART_NS = 1_000_000
"""With "auto", a part is to be worth so much of a worker's time: cutting costs a tenth of that."""

SMALLEST_WAIT = 0.1
"""With "auto", batches are cut while the training loop waits for so much of the time."""

_MEMORY = 0.8
"""How much of what was known is kept when a batch arrives."""


class Cut(Protocol):
    """Decides into how many parts batches are cut.

    Attributes:
        looks: Whether it wants to know what batches cost.
    """

    looks: bool

    def parts(self, samples: int) -> int:
        """Return the number of parts for a batch of so many samples."""

    def note(self, worked_ns: int, waited_ns: int, between_ns: int) -> None:
        """Note what a batch has cost.

        Args:
            worked_ns: Time that workers spent on it, all together.
            waited_ns: How long the training loop waited for it.
            between_ns: Time from the batch before to this one.
        """


class WholeCut:
    """Batches are not cut."""

    looks = False

    def parts(self, samples: int) -> int:  # noqa: ARG002  (others look at it)
        return 1

    def note(self, worked_ns: int, waited_ns: int, between_ns: int) -> None:
        pass


class FixedCut(WholeCut):
    """Batches are cut into a given number of parts."""

    def __init__(self, parts: int) -> None:
        self._parts = min(parts, MOST_PARTS)

    def parts(self, samples: int) -> int:
        return max(1, min(self._parts, samples))


class AutomaticCut(WholeCut):
    """Batches are cut while they are waited for, and each part is worth it.

    Into twice as many parts as there are workers: who has had a slow sample then has less to do.
    The first batches are cut without knowing, because they are always waited for.
    """

    looks = True

    def __init__(self, workers: int) -> None:
        self._most = min(2 * workers, MOST_PARTS)
        self._worked_ns: float | None = None
        self._wait = 1.0

    def parts(self, samples: int) -> int:
        if self._worked_ns is None:
            return max(1, min(self._most // 2, samples))
        if self._wait < SMALLEST_WAIT:
            return 1
        return max(1, min(self._most, samples, int(self._worked_ns / LEAST_PART_NS)))

    def note(self, worked_ns: int, waited_ns: int, between_ns: int) -> None:
        before = worked_ns if self._worked_ns is None else self._worked_ns
        self._worked_ns = _MEMORY * before + (1 - _MEMORY) * worked_ns
        wait = min(1.0, waited_ns / max(1, between_ns))
        self._wait = _MEMORY * self._wait + (1 - _MEMORY) * wait


def check_parts(
    wanted: Any, seed: int | None, dataset: Any, workers: Any, *, makes_batches: bool
) -> None:
    """Check the argument ``workers_per_batch`` together with those that it needs.

    Raises:
        TypeError: It is neither a number nor "auto".
        ValueError: It is below 1; or above 1 where batches can't be cut.
    """
    if wanted == "auto":
        return
    wanted = natural("workers_per_batch", wanted, least=1)
    if wanted == 1:
        return
    this = f"workers_per_batch={wanted}"
    if seed is None:
        raise ValueError(
            f"{this} needs seed=: without a seed, random numbers depend on which worker loads a "
            f"batch, as in torch"
        )
    if not isinstance(workers, int) or workers < wanted:
        raise ValueError(f"{this} needs as many workers, but got num_workers={workers}")
    if isinstance(dataset, IterableDataset) and not loads_items(dataset):
        raise ValueError(
            f"{this} needs a map-style dataset, or one with a method load(item), but "
            f"{type(dataset).__name__} is iterable: its samples come one after the other"
        )
    if not makes_batches:
        raise ValueError(f"{this} needs batches of several samples, but got batch_size=None")


def cut_for(wanted: WorkersPerBatch, workers: int) -> Cut:
    """How batches are cut for a loader that wants so many workers on one batch."""
    if wanted == "auto":
        return AutomaticCut(workers)
    return WholeCut() if wanted == 1 else FixedCut(wanted)
