"""Where a seeded stream stands, so that any number of ranks and workers can go on from there.

Runs in: consumer.
Takes: a loader with ``seed=``, or a state that one returned.
Gives: a state of plain values that ``json`` can write, equal on all ranks that took as many steps.

A state says what the stream follows from and how many of its samples were delivered. It says
nothing of workers, ranks and batch size, because the stream does not depend on them.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import IterableDataset

from fastload._seeded.own_streams import is_own_stream
from fastload._seeded.stream_loader import StreamLoader
from fastload._seeded.stream_order import has_own_batches, order_of

VERSION = 3
MODE = "seed"


def save(loader: StreamLoader, epoch: int, position: int) -> dict[str, Any]:
    """The state of a stream that goes on at a position of an epoch."""
    return {
        "fastload": VERSION,
        "mode": MODE,
        "seed": loader._stream_seed,
        "epoch": epoch,
        "position": position,
        **_identity(loader),
    }


def check(loader: StreamLoader, state: Any) -> tuple[int, int]:
    """The epoch and position at which a loader goes on from a state.

    Raises:
        ValueError: The state is of another stream; the error names what differs, and both values.
    """
    if not isinstance(state, dict) or state.get("fastload") != VERSION or state.get("mode") != MODE:
        raise ValueError(
            "this loader has seed=, but the state is not one that a fastload.DataLoader with seed= "
            f"returned: {_shown(state)}. Without seed= such a state can be loaded."
        )
    ours = {"seed": loader._stream_seed, **_identity(loader)}
    for name, value in ours.items():
        if state.get(name) != value:
            raise ValueError(
                f"this state is of a stream with {_WORDS[name]} {state.get(name)!r}; this loader "
                f"has {_WORDS[name]} {value!r}, so its stream is another one"
            )
    return int(state["epoch"]), int(state["position"])


def refuse_seeded(state: Any) -> None:
    """Refuse the state of a loader with ``seed=`` in one without.

    Raises:
        ValueError: It is such a state.
    """
    if isinstance(state, dict) and state.get("mode") == MODE:
        raise ValueError(
            f"this state is of a loader with seed={state.get('seed')!r}; this loader has none, so "
            f"its order is another one. Make the loader with seed={state.get('seed')!r}."
        )


def _identity(loader: StreamLoader) -> dict[str, Any]:
    if is_own_stream(loader.dataset):
        length = loader.dataset.seeded_length
        return {
            "dataset_length": length,
            "counts": "samples",
            **loader.dataset.seeded_identity(),
        }
    if isinstance(loader.dataset, IterableDataset):
        kind = type(loader.dataset)
        return {
            "dataset_length": length_of(loader.dataset),
            "counts": "samples",
            "dataset": f"{kind.__module__}.{kind.__qualname__}",
        }
    order = order_of(loader)
    return {
        "dataset_length": len(loader.dataset),
        "sampler_length": order.length(),
        "counts": "batches" if has_own_batches(loader) else "samples",
        **order.identity(),
    }


def length_of(dataset: Any) -> int | None:
    """The length of a dataset; None if it has none."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


_WORDS = {
    "seed": "seed",
    "dataset_length": "a dataset of length",
    "sampler_length": "a sampler of length",
    "dataset": "a dataset of class",
    "stream": "files, rows and shuffling",
    "canonical_shards": "canonical_shards",
    "turn_rows": "turn_rows",
    "counts": "positions that count",
    "sampler": "sampler",
    "sampler_seeds": "samplers' seeds",
}


def _shown(state: Any) -> str:
    return f"a dict with {sorted(map(str, state))[:8]}" if isinstance(state, dict) else repr(state)
