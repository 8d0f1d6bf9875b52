"""The next epoch begins to load while the last batches of this one are on their way.

Runs in: consumer.
Takes: a loader with ``seed=`` and persistent workers, whose order it makes itself.
Gives: to the iterator of the next epoch, a run whose first batches are loaded.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.data import IterableDataset

from fastload._epoch.draws import Draws
from fastload._epoch.loader import Loader
from fastload._epoch.run import Run
from fastload._epoch.seeded_pass import begin_pass
from fastload._pool.pool import Pool
from fastload._system.interruptions import is_from_outside
from fastload._wire.messages import SeededBegin
from fastload.stats.counters import Counters

MakeRun = Callable[[Draws, Counters, SeededBegin, int], Run]
"""Begins a run: of which batches, counted where, of which pass, how many of them at a time."""


class EpochAhead:
    """A run of the epoch after the newest one, of which nobody has asked for a batch yet.

    What goes wrong in it is raised when its epoch is asked for, or never.
    """

    def __init__(self, loader: Loader, begin: SeededBegin, make_run: MakeRun) -> None:
        """Begin the run, without any task yet; ``begin`` is that of the epoch before."""
        self.begin = begin._replace(epoch=begin.epoch + 1, start=0)
        self.dataset = loader.dataset
        self.shuffle = loader._own_order
        one = begin_pass(loader, self.begin.epoch, 0)
        if one.begin != self.begin:
            raise ValueError(f"the coming epoch would be {one.begin}, not {self.begin}")
        self.draws = Draws(one.tasks())
        self.run = make_run(self.draws, Counters(), self.begin, 0)

    def fits(self, loader: Loader, pool: Pool, begin: SeededBegin) -> bool:
        """Whether this is the epoch that a loader begins now."""
        return (
            begin == self.begin
            and loader.dataset is self.dataset
            and loader._own_order == self.shuffle
            and self.run.pool is pool
        )


def may_go_ahead(loader: Loader, run: Run) -> bool:
    """Whether the next epoch may begin to load: nothing that is shared with it is needed any more.

    A dataset that is told epochs must not hear of the next one before this one is loaded.
    """
    if loader._own_order is None or not loader.persistent_workers:
        return False
    if isinstance(loader.dataset, IterableDataset):
        return False  # whose items this process may read, or one worker
    return not hasattr(loader.dataset, "set_epoch") or not run.is_loading


def begin_ahead(
    loader: Loader, pool: Pool, begin: SeededBegin, make_run: MakeRun
) -> EpochAhead | None:
    """Begin the epoch after ``begin``; None if it can't be begun, which its own ``iter`` tells."""
    try:
        return EpochAhead(loader, begin, make_run)
    except Exception as error:
        if is_from_outside(error) or pool.guard.depth:
            raise
        return None
