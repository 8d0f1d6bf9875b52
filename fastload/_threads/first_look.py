"""Do samples draw from the program's global generators? Asked once, of the first batch.

Runs in: threads.

With ``seed=``, worker processes set the global generators in front of each sample. Threads can't:
there is one of each for the whole program. So what draws from one is refused. It is looked for
where nothing else draws: while the first batch is loaded, alone, and the training loop waits for it
in ``iter(loader)``. What first draws later is not found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fastload._seeded.generators import GLOBAL, NUMPY, PYTHON, TORCH, GlobalGenerator

T = TypeVar("T")

_NAMES = {
    PYTHON: "the module random",
    NUMPY: "numpy.random",
    TORCH: "torch's default generator",
}


class DrawsFromProgramError(ValueError):
    """A sample draws from a global generator; private, users see a ValueError."""


def load_alone(load: Callable[[], T], *, is_repeatable: bool) -> T:
    """Load the first batch and return it, if nothing was drawn for it.

    Another thread of the program's may draw in that moment. So where a batch can be loaded again it
    is, and a generator counts if it was drawn from both times.

    Raises:
        DrawsFromProgramError: A generator was drawn from.
    """
    suspects: tuple[GlobalGenerator, ...] = GLOBAL
    for _ in range(2 if is_repeatable else 1):
        before = [each.look() for each in suspects]
        outcome = load()
        suspects = tuple(
            each for each, look in zip(suspects, before, strict=True) if each.look() != look
        )
        if not suspects:
            return outcome
    names = " and ".join(_NAMES[each.number] for each in suspects)
    raise DrawsFromProgramError(
        f"the first batch was drawn for from {names}, which all threads of the program share, so "
        f"with worker_method='thread' its random numbers can't follow from seed=. Use "
        f"worker_method='process', or draw from a generator that the dataset or the collate "
        f"function owns, such as self.rng = numpy.random.default_rng()"
    )
