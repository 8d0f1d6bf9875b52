"""Datasets whose samples may load at a time: those that draw no random numbers.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a dataset, and how many of its samples are to load at a time.
Gives: how they do; or an error that names what the dataset draws from.

With a seed the generators can't be set for each sample while several load. Without one it is a
matter of timing which sample draws first. So the first sample of each process is looked at.
"""

from __future__ import annotations

from typing import Any, Final

from fastload._loading.concurrent import Concurrency, awaits_batches, awaits_samples
from fastload._loading.crew import Crew
from fastload._seeded.generators import GLOBAL, NUMPY, PYTHON, TORCH
from fastload._seeded.owned import comparable, find_generators
from fastload.errors import show

_NAMES: Final = {
    PYTHON: "Python's random",
    NUMPY: "numpy.random",
    TORCH: "torch's default generator",
}


def concurrency_of(dataset: Any, most: int, crew: Crew, *, is_seeded: bool) -> Concurrency | None:
    """How samples of a map-style dataset load at a time; None: one after another, as always.

    Raises:
        ValueError: There is a seed, and the dataset owns random generators.
    """
    is_async = awaits_samples(dataset) or awaits_batches(dataset)
    if most == 1 and not is_async:
        return None
    may_overlap = most > 1 or awaits_batches(dataset)
    if not is_seeded and not may_overlap:
        return Concurrency(most, crew)
    return Concurrency(
        most, crew, FirstDraws(dataset, most, is_seeded=is_seeded, is_async=is_async)
    )


class FirstDraws:
    """Refuses a dataset that draws random numbers, by the first sample that it loads here.

    The whole states of all generators are compared, once: that sees cached normal variates too.
    What a sample draws that is loaded later is not seen.

    Args:
        dataset: The dataset.
        most: How many of its samples are to load at a time.
        is_seeded: Whether what is drawn should follow from the position.
        is_async: Whether samples are awaited.

    Raises:
        ValueError: There is a seed, and the dataset owns generators, drawn from or not.
    """

    def __init__(self, dataset: Any, most: int, *, is_seeded: bool, is_async: bool) -> None:
        self.is_done = False
        self._dataset = dataset
        self._most = most
        self._is_seeded = is_seeded
        self._is_async = is_async
        self._before: dict[str, bytes] = {}
        owned = find_generators(dataset, "dataset") if is_seeded else []
        if owned:
            raise ValueError(
                f"{type(dataset).__name__} owns a random generator, {owned[0].path}, "
                f"{self._reason()}. {self._cure()}"
            )

    def begin(self) -> None:
        """The first samples are about to be loaded."""
        self._before = self._states()

    def end(self, indices: Any) -> None:
        """They were loaded.

        Raises:
            ValueError: They have drawn random numbers.
        """
        now = self._states()
        drawn = [name for name, state in self._before.items() if now.get(name, state) != state]
        if drawn:
            raise ValueError(
                f"{type(self._dataset).__name__} drew from {' and '.join(drawn)} while it loaded "
                f"dataset indices {show(indices)}, {self._reason()}. {self._cure()}"
            )
        self._before, self.is_done = {}, True

    def _states(self) -> dict[str, bytes]:
        states = {_NAMES[each.number]: each.save() for each in GLOBAL}
        for each in find_generators(self._dataset, "dataset"):
            states[each.path] = each.save()
        return {name: comparable(state) for name, state in states.items()}

    def _reason(self) -> str:
        if self._is_seeded:
            return (
                f"which seed= can't set for each sample with concurrent_samples={self._most}"
                f"{' and an async dataset' if self._is_async else ''}"
            )
        return (
            f"so results would depend on timing with concurrent_samples={self._most}"
            f"{' and an async dataset' if self._is_async else ''}: on which sample draws first"
        )

    def _cure(self) -> str:
        cure = "Give concurrent_samples=1"
        if self._is_async:
            cure = "Load samples by a plain `def __getitem__` and with concurrent_samples=1"
        return f"{cure}, or make what is random a function of the index"
