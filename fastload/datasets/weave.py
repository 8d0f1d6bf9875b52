"""The order of a stream in seeded mode: canonical shards take turns.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the number of rows of each shard, and positions in the stream.
Gives: the rows at these positions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Weave:
    """The order in which shards take turns until each has run out.

    Args:
        lengths: The number of rows of each shard.
        turn: The number of rows of a turn; the last turn of a shard may be shorter.
    """

    def __init__(self, lengths: list[int], turn: int) -> None:
        self._lengths = np.array(lengths, np.int64)
        self._turn = turn
        self._first_rows = np.cumsum(self._lengths) - self._lengths
        rounds = -(-int(self._lengths.max(initial=0)) // turn)
        ends = np.arange(rounds + 1, dtype=np.int64) * turn
        # How many rows have been given when a round begins, over all shards.
        self._begins = np.minimum(self._lengths[:, None], ends[None, :]).sum(axis=0)

    def rows(self, positions: Ints) -> Ints:
        """Return the rows at positions; rows are counted shard after shard."""
        rounds = np.searchsorted(self._begins, positions, side="right") - 1
        found = np.empty_like(positions)
        for number in np.unique(rounds):
            at = rounds == number
            done = number * self._turn
            sizes = np.clip(self._lengths - done, 0, self._turn)
            ends = np.cumsum(sizes)
            places = positions[at] - self._begins[number]
            shards = np.searchsorted(ends, places, side="right")
            inside = places - (ends - sizes)[shards]
            found[at] = self._first_rows[shards] + done + inside
        return found
