"""Streams of our own in seeded mode: any position of them can be read by any worker.

Runs in: consumer and worker.

Such a stream is an iterable dataset with ``seeded_length``, ``seeded_rows(epoch)``, which gives a
map-style dataset by position, ``seeded_identity()`` and ``batch_size``. With a ``batch_size`` the
rows make batches themselves, by ``batch(positions, place)``.
"""

from __future__ import annotations

import contextlib
from typing import Any

from fastload._loading.dataset_state import StateSource
from fastload._loading.stopwatch import Watch
from fastload._memory.write import Place
from fastload._seeded.generators import GlobalGenerator
from fastload._seeded.owned import find_generators
from fastload._seeded.seeds import COLLATE, EpochDraws
from fastload._wire.indices import PositionedIndices, plain
from fastload.collate.inplace import Collate
from fastload.errors import annotate, show


def is_own_stream(dataset: Any) -> bool:
    """Whether an iterable dataset can be read by position."""
    return hasattr(type(dataset), "seeded_rows")


def makes_batches(dataset: Any) -> bool:
    """Whether a dataset is a stream of ours that makes batches itself."""
    return is_own_stream(dataset) and dataset.batch_size is not None


class OwnBatchFetcher:
    """Loads batches that the stream itself makes of its rows.

    Args:
        rows: What ``seeded_rows`` returned.
        draws: The seeds of the epoch.
        shared: The global generators that are set for each batch.
        collate: What the loader does with a ready batch.
        collate_fn: The user's function for that.
        program: Keeps the generators of the program; None in a worker.
    """

    def __init__(
        self,
        rows: Any,
        draws: EpochDraws,
        shared: tuple[GlobalGenerator, ...],
        collate: Collate,
        collate_fn: Any,
        program: contextlib.AbstractContextManager[object] | None = None,
    ) -> None:
        self.source: StateSource | None = None  # what is delivered again is read again
        self.watch = Watch()
        self._rows = rows
        self._draws = draws
        self._collate = collate
        self._program = program or contextlib.nullcontext()
        owned = [*find_generators(rows, "dataset"), *find_generators(collate_fn, "collate_fn")]
        self._generators: list[Any] = [*shared, *owned]

    def fetch(self, indices: PositionedIndices, place: Place) -> Any:
        """Read and make one batch; as ``Fetcher.fetch``."""
        with self._program:
            return self._fetch(indices, place)

    def _fetch(self, indices: PositionedIndices, place: Place) -> Any:
        positions = indices.positions
        # For the user's batch_transform and collate function.
        self._draws.seed(self._generators, COLLATE, positions[0])
        try:
            batch = self._rows.batch(plain(indices.indices), place)
        except BaseException as error:
            annotate(error, f"while reading the rows at positions {show(positions)} of the stream")
            raise
        self.watch.fetched()
        return self._collate(batch, place)
