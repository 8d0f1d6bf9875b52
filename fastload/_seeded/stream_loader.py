"""What the seeded stream reads of a loader.

Runs in: consumer.
"""

from __future__ import annotations

from typing import Any, Protocol

from fastload._loading.on_error import OnError
from fastload._seeded.steps import Even


class StreamLoader(Protocol):
    """A loader, as far as its seeded stream depends on it."""

    dataset: Any
    batch_size: int | None
    drop_last: bool
    sampler: Any
    batch_sampler: Any
    on_error: OnError
    num_replicas: int | None
    rank: int | None
    even: Even

    _stream_seed: int | None
    """The seed of the stream; None without ``seed=``."""

    _own_order: bool | None
    """What ``shuffle`` said, if the loader made its sampler itself; otherwise None."""
