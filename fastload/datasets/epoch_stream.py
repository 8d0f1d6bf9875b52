"""What streams of files share: the epoch they are in, and whether a state is theirs.

Runs in: worker (consumer with ``num_workers=0``), and in the consumer where epochs are set.
Takes: the number of an epoch; a state.
Gives: the same in all processes; an error for a state of something else.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import IterableDataset

from fastload.datasets.ranks_and_workers import Epoch, this_rank


class EpochStream(IterableDataset[Any]):
    """A stream of a number of epochs, read by ranks and workers together.

    Args:
        rank: This process's rank; None: that of the process group, or of torchrun.
        world_size: The number of ranks; given with ``rank``.

    Raises:
        ValueError: Only one is given, or there is no such rank.
    """

    def __init__(self, rank: int | None, world_size: int | None) -> None:
        self.given_rank = None if rank is None else (rank, world_size)
        self.rank, self.world_size = this_rank(rank, world_size)
        self._epoch = Epoch()
        self._loaded: dict[str, Any] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Shuffle differently from now on; call it before each epoch.

        All workers of fastload's loader are told. Of other loaders' persistent workers, those that
        were forked see it, those of spawn and forkserver do not.

        Raises:
            ValueError: ``epoch`` is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch is at least 0, but got {epoch}")
        self._epoch.set(epoch)

    @property
    def epoch(self) -> int:
        """Return what ``set_epoch`` was given, at first 0."""
        return self._epoch.get()

    def _take(self, state_dict: dict[str, Any], version: int) -> None:
        """Keep a state for the next iterator; one that is finished leaves nothing to go on with.

        Raises:
            ValueError: It is of other files, or of another order.
        """
        expected = {"version": version, "order": self._fingerprint()}
        got = {key: state_dict.get(key) for key in expected}
        if got != expected:
            raise ValueError(
                f"this state is of another stream: it says {got}, but here it is {expected}"
            )
        self._loaded = None if state_dict.get("is_finished") else dict(state_dict)

    def _fingerprint(self) -> list[Any]:
        """Return as plain values what the order of an epoch follows from, beside its number."""
        raise NotImplementedError
