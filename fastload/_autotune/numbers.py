"""``num_workers="auto"`` as a number: torch's constructor and attributes see integers.

Runs in: consumer.
Takes: the arguments of a loader.
Gives: integers of a class of their own, ``Auto``, for what the tuner is to choose; and the tuner.
"""

from __future__ import annotations

from typing import Any, Literal

import psutil
from torch.utils.data import IterableDataset

from fastload._autotune.tuner import DEFAULT_PREFETCH, MOST_PREFETCH, Choice, Tuner, TunerBounds
from fastload._epoch.loader import Loader
from fastload._system.cores import find_cores
from fastload._system.memory_limits import default_limit_bytes

AUTO = "auto"


class Auto(int):
    """A number that fastload chose and may choose again.

    A loader that is given one, as trainers do which copy arguments, chooses too.
    """

    def __repr__(self) -> str:
        return f"Auto({int(self)})"


def resolve(
    num_workers: int | Literal["auto"], prefetch_factor: int | Literal["auto"] | None
) -> tuple[int, int | None]:
    """Turn "auto" into an ``Auto`` number; torch's constructor checks everything else."""
    workers: Any = num_workers
    if num_workers == AUTO or isinstance(num_workers, Auto):
        workers = Auto(max(1, round(find_cores().usable)))
    is_open = prefetch_factor is None and isinstance(workers, Auto)
    if is_open or prefetch_factor == AUTO or isinstance(prefetch_factor, Auto):
        return workers, Auto(DEFAULT_PREFETCH)
    return workers, prefetch_factor  # type: ignore[return-value]  # no text is left


def is_auto(loader: Loader) -> bool:
    """Tell whether the number of workers or the prefetch factor is to be chosen."""
    return isinstance(loader.num_workers, Auto) or isinstance(loader.prefetch_factor, Auto)


def make_tuner(loader: Loader) -> Tuner:
    """Make the tuner of an automatic loader, within what machine and arguments allow."""
    workers, prefetch = loader.num_workers, loader.prefetch_factor
    memory_bytes = min(_limit_bytes(loader), int(psutil.virtual_memory().available) // 2)
    least, most = (1 if loader.timeout else 0), None
    if not isinstance(workers, Auto):
        least = most = int(workers)
    elif isinstance(loader.dataset, IterableDataset):
        most = 1  # more would each yield the whole stream, unless the dataset divides it
    fixed = None if isinstance(prefetch, Auto) else int(prefetch)
    return Tuner(
        TunerBounds(find_cores().usable, least, most, fixed, memory_bytes, _batches(loader))
    )


def most_prefetch(loader: Loader, choice: Choice, batch_bytes: int) -> int:
    """The largest prefetch factor that workers started now can be raised to later.

    A pool's shared memory is divided into slots once, when its workers start. The factor is kept so
    small that each slot holds four times the largest batch seen so far.
    """
    if not isinstance(loader.prefetch_factor, Auto):
        return choice.prefetch
    factor, limit_bytes = MOST_PREFETCH, _limit_bytes(loader)
    while factor > choice.prefetch and factor * choice.workers * 4 * batch_bytes > limit_bytes:
        factor //= 2
    return max(factor, choice.prefetch)


def _limit_bytes(loader: Loader) -> int:
    given: int | None = loader.memory_limit
    return default_limit_bytes() if given is None else given


def _batches(loader: Loader) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def apply(loader: Loader, tuner: Tuner) -> None:
    """Write the tuner's choice into the loader: what its next epoch begins with."""
    choice = tuner.choice
    if isinstance(loader.num_workers, Auto):
        loader.num_workers = Auto(choice.workers)
    if isinstance(loader.prefetch_factor, Auto):
        loader.prefetch_factor = Auto(choice.prefetch)
