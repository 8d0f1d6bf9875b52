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

from fastload._epoch.seeded_pass import begin_of
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

    A loader with ``seed=`` begins its coming epoch, or the one that ``set_epoch`` says, so many
    batches later, with the random draws of that place.

    Args:
        loader: A prepared loader, or one of ours.
        num_batches: Batches to leave out; of map-style datasets they are not loaded.

    Returns:
        A new loader; ``loader`` itself stays as it is.
    """
    from accelerate import skip_first_batches as skip

    given = vars(loader).get("base_dataloader", loader)
    if not isinstance(given, DataLoader):
        return skip(loader, num_batches)
    if given is loader and given._stream_seed is not None:
        return _skipped_stream(given, num_batches, 1)
    skipped = skip(loader, num_batches)
    if "base_dataloader" not in vars(skipped):
        return given.replace(**_set_by_accelerate(skipped))
    _put_in(skipped, given)
    if given._stream_seed is not None:
        skipped.skip_batches = 0
        batches = _batches_at_a_time(skipped)
        skipped.base_dataloader = _skipped_stream(skipped.base_dataloader, num_batches, batches)
    return skipped


def _put_in(adapter: Any, ours: DataLoader[Any]) -> None:
    """Replace the loader inside Accelerate's adapter by one like ours."""
    made = vars(adapter).get("base_dataloader")
    if made is None:  # XLA's own wrapper
        return
    if ours._stream_seed is not None:
        _put_in_seeded(adapter, ours)
    else:
        adapter.base_dataloader = ours.replace(**_set_by_accelerate(made))
    adapter.dl_state_dict = adapter.base_dataloader.state_dict()


def _put_in_seeded(adapter: Any, ours: DataLoader[Any]) -> None:
    """Put a loader with ``seed=`` in: it deals to ranks itself, and has no generator.

    Where the first rank reads for all and sends each of them a part, it reads the whole stream. A
    state that was loaded before stays loaded.
    """
    alone = {"num_replicas": 1, "rank": 0} if _is_dispatcher(adapter) else {}
    loader: Any = ours.replace(**alone)
    adapter.base_dataloader = loader
    epoch, position = ours._live.epochs.coming(ours)
    loader._live.epochs.resume(epoch, position)
    adapter.iteration = epoch
    if loader.batch_sampler is not None:
        # What Accelerate computes the number of fillers in the last step from.
        loader.batch_sampler.num_processes = ranks_of(loader)[0]
    clock = _AdapterClock(adapter)
    adapter.set_epoch = clock.set_epoch
    adapter.load_state_dict = clock.load_state_dict
    adapter.adjust_state_dict_for_prefetch = clock.adjust_state_dict_for_prefetch


class _AdapterClock:
    """Makes Accelerate's adapter and the loader with ``seed=`` inside it speak of the same epoch.

    Accelerate counts epochs from 0, also where a state was loaded, and tells its number to the
    sampler at the beginning of each epoch: after a resume the second epoch would be epoch 1 for
    ever. So loading a state sets its count too. These methods take the place of the adapter's own;
    they are kept in an object, so that an adapter can still be pickled.
    """

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, whatever kind of sampler the loader has."""
        self.adapter.iteration = epoch
        self.adapter.base_dataloader.set_epoch(epoch)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a state was taken, and count from its epoch."""
        self.adapter.base_dataloader.load_state_dict(state_dict)
        self.adapter.iteration = state_dict["epoch"]

    def adjust_state_dict_for_prefetch(self) -> None:
        """Take back what a dispatching rank has read of a step that nobody has got yet.

        It asks for the state in front of the last of the batches that it reads for one step.
        """
        state, loader = self.adapter.dl_state_dict, self.adapter.base_dataloader
        ahead = (_batches_at_a_time(self.adapter) - 1) * (loader.batch_size or 1)
        state["position"] = max(0, state["position"] - ahead)


def _is_dispatcher(adapter: Any) -> bool:
    from accelerate.data_loader import DataLoaderDispatcher

    return issubclass(type(adapter), DataLoaderDispatcher)


def _batches_at_a_time(adapter: Any) -> int:
    """Batches that an adapter takes from its loader for one batch of each rank."""
    if not _is_dispatcher(adapter) or adapter.split_batches:
        return 1
    return int(adapter.state.num_processes)


def _skipped_stream(loader: DataLoader[Any], num_batches: int, at_a_time: int) -> DataLoader[Any]:
    """A loader like one with ``seed=`` whose next pass begins so many batches later."""
    begin = begin_of(loader)
    skipped = loader.replace()
    skipped.set_epoch(loader._live.epochs.coming(loader)[0])
    skipped._live.epochs.skip(num_batches * at_a_time * begin.ranks * begin.batch_size)
    return skipped


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
