"""The seam behind which every way of loading an epoch stands: one file for each way.

Runs in: consumer.
Takes: a loader that begins an epoch.
Gives: the protocols that a way follows; nothing here does anything.

``iter(loader)`` begins an epoch in this order:

1. ``DataLoader.__iter__`` asks the *offers*, one for each way, most special first. An offer looks
   at the loader and at the iterator of the epoch before, if the loader keeps workers. It returns a
   ``Way`` if it can load this epoch as the loader was told to, and otherwise None. The first way
   offered is taken. The plain ways (in this process, or with new workers) come last.
2. ``DataLoader.__iter__`` calls ``self._get_iterator()``, whatever way was chosen. A subclass may
   override it to wrap what it returns, so no way may begin an epoch beside it.
3. ``DataLoader._get_iterator`` notes the random state from which the epoch's order follows
   (``Way.began`` says how the order will be drawn), or restores the one of a loaded state, and
   calls ``Way.begin``. Called by anybody else than ``__iter__`` it takes a plain way, as torch's.
4. The loader's state object then knows the iterator: it sets ``iterator.position`` and remembers
   the iterator weakly, so that the next epoch can take over its workers. What was put into
   ``loader._iterator`` may be an object of the subclass, and only keeps the iterator alive.

To add a way: write one file with an iterator class, a ``Way`` and an offer, and name the offer in
``fastload.dataloader``.
"""

from __future__ import annotations

from typing import Any, Protocol

from fastload._epoch.loader import Loader
from fastload._epoch.resume import EpochPosition
from fastload.stats.counters import Counters


class WayIterator(Protocol):
    """What ``iter(loader)`` returns, whatever the way; one pass over the dataset.

    Promises:
        - It is an instance of one of torch's two iterator classes, which trainers test for.
        - Batches, their order, and what is drawn from the program's random generators are those of
          torch's loader with the same arguments, at each batch.
        - Its end is raised only when every batch was delivered, or an exception told the caller of
          each that was not. An exception from outside (``fastload._system.interruptions``) either
          leaves it as it was, or makes a later call raise ``LoadingInterrupted``.
        - ``position`` counts a batch when it is delivered and not before; ``position.is_finished``
          is true from the moment in which the end is raised.
        - Nothing that it starts outlives the last reference to it, unless the next epoch took it.
    """

    position: EpochPosition
    """How far the epoch has come; set by the loader after ``Way.begin``."""

    _counters: Counters
    """What ``loader.stats()`` shows."""

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            StopIteration: The epoch is over.
        """

    def close(self) -> None:
        """End what the iterator has started; safe to call again. Later calls of next may raise."""


class Way(Protocol):
    """One way of loading an epoch, chosen for one call of ``iter(loader)``.

    Attributes:
        began: One of the constants of ``fastload._epoch.resume`` that say when the workers' base
            seed is drawn; a saved state names it, so that the order can be drawn again.
        is_kept: Whether ``loader._iterator`` is to hold the iterator, so that the next epoch can
            take over its workers or seeds.
    """

    began: str
    is_kept: bool

    def begin(self, loader: Loader) -> Any:
        """Make the iterator (a ``WayIterator``) and draw what torch's draws as an epoch begins.

        Called once for each call of ``_get_iterator``; all attributes of the loader are read here
        or later, so that what was set after construction counts.
        """


class Offer(Protocol):
    """Decides whether one way can load the epoch that begins."""

    def __call__(self, loader: Loader, before: Any) -> Way | None:
        """The way, or None for another one to be asked.

        Args:
            loader: The loader that begins an epoch; nothing of it is changed.
            before: The iterator of the epoch before if the loader keeps workers: as torch's kept
                workers do, the epoch goes on with what that one was begun with. Otherwise None.
        """
