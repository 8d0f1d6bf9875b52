"""Hand loaders to Accelerate and keep what they are.

Runs in: consumer.
Takes: an ``Accelerator`` and what its ``prepare`` takes.
Gives: what ``prepare`` gives, with fastload's loaders inside.

Accelerate makes a new loader of torch's class out of each loader, also in a single process, from
the arguments that it knows. Its adapter holds that loader in ``base_dataloader`` and asks it for
everything; so one of ours, made for the same dataset and batch sampler, can take its place.
"""

from __future__ import annotations

from typing import Any

import torch.utils.data
from torch.utils.data import BatchSampler, IterableDataset

from fastload._seeded.replicas import ranks_of
from fastload.dataloader import DataLoader

__all__ = ["prepare", "skip_first_batches"]


def prepare(accelerator: Any, *objects: Any, device_placement: list[bool] | None = None) -> Any:
    """``accelerator.prepare(*objects)``, in which fastload's loaders stay fastload's.

    Sharding among processes, ``even_batches``, the seedable sampler, dispatching of streams and
    ``gather_for_metrics`` are Accelerate's as always. With ``use_stateful_dataloader`` its
    ``save_state`` and ``load_state`` keep the loader's place in the epoch; torchdata's loader is
    not used then. A loader with ``seed=`` deals to ranks itself, so what Accelerate would shard is
    passed on as it is.

    Args:
        accelerator: The program's ``accelerate.Accelerator``.
        *objects: Loaders, models, optimizers and schedulers. Loaders of other classes are
            prepared as Accelerate does it.
        device_placement: As of ``Accelerator.prepare``.

    Returns:
        The prepared objects in the same order; the object itself if there is one.

    Example:
        >>> from accelerate import Accelerator
        >>> loader = prepare(Accelerator(cpu=True), DataLoader(range(4), batch_size=2))
        >>> isinstance(loader, DataLoader)
        True
        >>> [batch.tolist() for batch in loader]
        [[0, 1], [2, 3]]
    """
    prepared = accelerator.prepare(*objects, device_placement=device_placement)
    results = prepared if len(objects) > 1 else (prepared,)
    for given, result in zip(objects, results, strict=True):
        if isinstance(given, DataLoader) and result is not given:
            _put_in(result, given)
    return prepared


def skip_first_batches(loader: Any, num_batches: int = 0) -> Any:
    """``accelerate.skip_first_batches``, with fastload's loader inside if it was one.

    Args:
        loader: A prepared loader, or one of ours.
        num_batches: Batches to leave out; of map-style datasets they are not loaded.

    Returns:
        A new loader; ``loader`` itself stays as it is.
    """
    from accelerate import skip_first_batches as skip

    given = vars(loader).get("base_dataloader", loader)
    skipped = skip(loader, num_batches)
    if not isinstance(given, DataLoader):
        return skipped
    if given._stream_seed is not None:
        raise ValueError(
            "skip_first_batches is not for loaders with seed=: their state_dict() says where the "
            "epoch stands; give it to load_state_dict() and iterate over the loader itself"
        )
    if "base_dataloader" in vars(skipped):
        _put_in(skipped, given)
        return skipped
    return given.replace(**_set_by_accelerate(skipped))


def _put_in(adapter: Any, ours: DataLoader[Any]) -> None:
    """Replace the loader inside Accelerate's adapter by one like ours."""
    made = vars(adapter).get("base_dataloader")
    if made is None:  # XLA's own wrapper
        return
    changes = _set_by_accelerate(made) if ours._stream_seed is None else _for_seeded(adapter)
    adapter.base_dataloader = ours.replace(**changes)
    if ours._stream_seed is not None and adapter.base_dataloader.batch_sampler is not None:
        # What Accelerate computes the number of fillers in the last step from.
        adapter.base_dataloader.batch_sampler.num_processes = ranks_of(adapter.base_dataloader)[0]
    adapter.dl_state_dict = adapter.base_dataloader.state_dict()


def _for_seeded(adapter: Any) -> dict[str, Any]:
    """Changes of a loader with ``seed=``: it deals to ranks itself, and has no generator.

    Where the first rank reads for all and sends each of them a part, it reads the whole stream.
    """
    from accelerate.data_loader import DataLoaderDispatcher

    return {"num_replicas": 1, "rank": 0} if isinstance(adapter, DataLoaderDispatcher) else {}


def _set_by_accelerate(made: torch.utils.data.DataLoader[Any]) -> dict[str, Any]:
    """What Accelerate decided about a loader that it made."""
    decided: dict[str, Any] = {"dataset": made.dataset, "generator": made.generator}
    if isinstance(made.dataset, IterableDataset):
        names = ["batch_size", "drop_last"]
    elif isinstance(made.sampler, BatchSampler):
        names = ["sampler", "batch_size", "drop_last"]
    else:
        names = ["batch_sampler"]
    return {**decided, **{name: getattr(made, name) for name in names}}
