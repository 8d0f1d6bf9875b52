"""What a training has seen so far, and the clock that tells waiting from computing.

Runs in: consumer.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class History:
    """Losses and stall shares of every step, accuracies after every epoch; saved in checkpoints."""

    losses: list[float] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)


class StallClock:
    """Adds up how long the loop waits for batches, the start of the epoch included.

    Attributes:
        stalled_s: Time spent waiting.
        elapsed_s: Time of the epochs, the waiting included.
        newest_share: The share of the newest step's time that was spent waiting, once `step_ends`.
    """

    def __init__(self) -> None:
        self.stalled_s = self.elapsed_s = self.newest_share = 0.0
        self._began = self._came = 0.0

    def watch(self, steps: Iterable[T]) -> Iterator[T]:
        """Yield what each step takes, the time until it is there counted."""
        self._began = perf_counter()
        for one in steps:
            self._came = perf_counter()
            self.stalled_s += self._came - self._began
            yield one
        now = perf_counter()
        self.stalled_s += now - self._began
        self.elapsed_s += now - self._began

    def step_ends(self) -> None:
        """Say that the step is done, and the wait for the next one begins."""
        now = perf_counter()
        self.newest_share = (self._came - self._began) / (now - self._began)
        self.elapsed_s += now - self._began
        self._began = now

    @property
    def stall_share(self) -> float:
        """Share of the time so far that was spent waiting, from 0 to 1."""
        return self.stalled_s / self.elapsed_s
