"""Choose how the batches of one seeded pass are loaded, by the kind of dataset.

Runs in: worker (consumer with ``num_workers=0``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastload._loading.concurrent import Concurrency
from fastload._loading.fetch import Fetcher
from fastload._loading.on_error import Tolerance
from fastload._seeded.loading import DrawnGenerators, ProgramGenerators, make_seeded_fetcher
from fastload._seeded.own_streams import OwnBatchFetcher, is_own_stream
from fastload._seeded.seeds import EpochDraws
from fastload._seeded.streams import SeededStreamFetcher
from fastload._wire.messages import SeededBegin
from fastload.collate.inplace import Collate


def make_pass_fetcher(
    dataset: Any,
    begin: SeededBegin,
    drawn: DrawnGenerators,
    *,
    iterable: bool,
    batched: bool,
    collate: Collate,
    collate_fn: Callable[..., Any],
    tolerance: Tolerance | None,
    is_live: bool = False,
    program: ProgramGenerators | None = None,
    concurrency: Concurrency | None = None,
) -> Fetcher:
    """A fetcher of one pass, for ``PositionedIndices``; it is chosen once.

    Args:
        dataset: The dataset.
        begin: Where the pass begins, and how it is dealt.
        drawn: The generators that are set in this process.
        iterable: Whether the dataset is iterated over.
        batched: Whether batches are collated, rather than single samples converted.
        collate: Makes a batch of samples, or tensors of what one sample has.
        collate_fn: The user's function for that.
        tolerance: Leaves out or replaces samples that can't be loaded; None: errors are raised.
        is_live: Whether the program itself has the dataset and may change it between batches.
        program: Keeps the generators of the program; None in a worker.
        concurrency: How samples of a map-style dataset load at a time; None: one after another.
    """
    draws = EpochDraws(begin.seed, begin.epoch)
    if is_own_stream(dataset):
        dataset, is_live = dataset.seeded_rows(begin.epoch), False
        if dataset.batch_size is not None:
            return OwnBatchFetcher(dataset, draws, drawn.shared, collate, collate_fn, program)
    elif iterable:
        return SeededStreamFetcher(
            dataset,
            begin,
            batched=batched,
            collate=collate,
            collate_fn=collate_fn,
            tolerance=tolerance,
            shared=drawn.shared,
            program=program,
        )
    return make_seeded_fetcher(
        dataset,
        draws,
        drawn,
        batched=batched,
        collate=collate,
        tolerance=tolerance,
        is_live=is_live,
        program=program,
        concurrency=concurrency,
    )
