"""``fastload.prefetch``: any loader's batches, copied to a device ahead of the training loop.

Runs in: consumer.
Takes: a loader: fastload's, torch's, one that a trainer has wrapped, or any iterable.
Gives: an iterable of the same batches on the device, which counts what *it* handed out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from fastload._device.copying import DeviceIterator, HandedOut
from fastload.samplers.epochs import natural

DEPTH = 2
"""Batches copied ahead: one for the step that comes, one for a step that is shorter than a copy."""


class Said(NamedTuple):
    """What a loader says of itself behind a batch; None: it has no such thing, or not yet."""

    state: dict[str, Any] | None
    mask: torch.Tensor | None


def mask_of(mask: Any) -> torch.Tensor | None:
    """What a loader's method ``mask`` gives; None where the loader has none to give."""
    try:
        found: torch.Tensor | None = None if mask is None else mask()
    except ValueError:
        return None
    return found


class Prefetcher:
    """What ``prefetch`` returns for a loader without a state.

    Attributes that it does not have itself are the loader's.

    Attributes:
        loader: The loader.
        device: Where the batches go.
        depth: Batches that are copied ahead.
    """

    def __init__(self, loader: Any, device: torch.device, depth: int) -> None:
        self.loader = loader
        self.device = device
        self.depth = depth
        self._newest: HandedOut | None = None

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        self._newest = HandedOut(self._say())
        return DeviceIterator(batches, self.device, self.depth, self._say, self._newest)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "loader":  # also while a copy is being made
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __getstate__(self) -> dict[str, Any]:
        """Copies do not share the epoch."""
        return {**vars(self), "_newest": None}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, if the loader or its sampler can be told."""
        self._newest = None
        candidates: list[Any] = [self.loader, getattr(self.loader, "sampler", None)]
        for one in candidates:
            if hasattr(one, "set_epoch"):
                one.set_epoch(epoch)
                return

    def mask(self) -> torch.Tensor:
        """``loader.mask()`` of the newest batch that was handed out.

        Raises:
            ValueError: The loader has no ``seed=``, or no batch was handed out yet.
        """
        if self._newest is not None and self._newest.said.mask is not None:
            handed_out: torch.Tensor = self._newest.said.mask
            return handed_out
        mask: torch.Tensor = self.loader.mask()
        return mask

    def _say(self) -> Said:
        loader = self.loader
        state = loader.state_dict() if hasattr(loader, "state_dict") else None
        return Said(state, mask_of(getattr(loader, "mask", None)))


class ResumablePrefetcher(Prefetcher):
    """What ``prefetch`` returns for a loader with ``state_dict`` and ``load_state_dict``."""

    def state_dict(self) -> dict[str, Any]:
        """The loader's state behind the newest batch that was handed out here.

        What was copied ahead does not count: a loader that loads this state gives it again.
        """
        if self._newest is None:
            state: dict[str, Any] = self.loader.state_dict()
            return state
        return dict(self._newest.said.state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next pass go on where the state was taken."""
        self.loader.load_state_dict(state_dict)
        self._newest = None


def prefetch(loader: Any, device: torch.device | str | int, depth: int = DEPTH) -> Prefetcher:
    """Copy a loader's batches to a device ahead of the training loop.

    The copies run on a stream of their own while the training step computes, and the step's stream
    waits for those of its own batch only. They overlap if batches lie in page-locked memory: give
    the loader ``pin_memory=True``. On the CPU batches are handed out as the loader gives them.
    Not yet measured on a GPU.

    Args:
        loader: Any iterable of batches: tensors, objects with ``to``, and any nesting of them.
        device: Such as ``"cuda"``; of the CPU nothing is read ahead.
        depth: Batches copied ahead of the one in use, at least 1; the device holds one more.

    Returns:
        An iterable of the batches on the device, with the loader's length, ``set_epoch`` and
        ``mask``, and, if the loader has them, ``state_dict`` and ``load_state_dict``: they count
        what was handed out, not what was copied ahead. Other attributes are the loader's.

    Raises:
        TypeError, ValueError: ``depth`` is not an integer of at least 1.
        RuntimeError: There is no such kind of device.

    Example:
        >>> from fastload import DataLoader
        >>> batches = prefetch(DataLoader(range(6), batch_size=2), "cpu")
        >>> for batch in batches:
        ...     if batch[0] == 2:
        ...         break
        >>> batches.load_state_dict(batches.state_dict())
        >>> [batch.tolist() for batch in batches]
        [[4, 5]]
    """
    has_state = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    kind = ResumablePrefetcher if has_state else Prefetcher
    return kind(loader, torch.device(device), natural("depth", depth, least=1))
