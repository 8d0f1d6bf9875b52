"""Move everything in a batch that has a ``to``, wherever it is, and find the tensors in it.

Runs in: consumer.
Takes: a batch: tensors, objects with ``to``, and any nesting of mappings, sequences, named tuples
    and dataclasses.
Gives: a batch of the same form on the device; what has no ``to`` is passed on as it is.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def moved(batch: Any, device: torch.device, *, non_blocking: bool) -> Any:
    """The batch with its tensors on a device.

    Args:
        batch: The batch; it is not changed.
        device: Where to.
        non_blocking: Do not wait for the copies; objects of others whose ``to`` does not take this
            argument wait.

    Returns:
        Containers of the same classes; where nothing had to be moved, perhaps the same objects.
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=non_blocking)
    if callable(getattr(batch, "to", None)) and not isinstance(batch, type):
        kind: Any = type(batch)
        if _takes_non_blocking(kind):
            return batch.to(device, non_blocking=non_blocking)
        return batch.to(device)
    return _rebuilt(batch, lambda part: moved(part, device, non_blocking=non_blocking))


def _rebuilt(batch: Any, move: Callable[[Any], Any]) -> Any:
    """A container with other parts; anything else as it is."""
    if isinstance(batch, Mapping):
        return _mapping(batch, {key: move(part) for key, part in batch.items()})
    if isinstance(batch, tuple | list):
        parts = [move(part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        other = copy.copy(batch)
        for field in dataclasses.fields(batch):
            # Also those of frozen classes, and those that __init__ does not take.
            object.__setattr__(other, field.name, move(getattr(batch, field.name)))
        return other
    return batch


def _mapping(batch: Mapping[Any, Any], found: dict[Any, Any]) -> Any:
    """Parts in a mapping of the batch's class."""
    if type(batch) is dict:
        return found
    if isinstance(batch, MutableMapping):
        other = copy.copy(batch)  # a defaultdict keeps its factory
        other.update(found)
        return other
    return type(batch)(found)  # type: ignore[call-arg]  # as torch's pin_memory makes them


@lru_cache(maxsize=256)
def _takes_non_blocking(cls: Any) -> bool:
    """Whether a class's ``to`` takes ``non_blocking``, as that of most such classes does."""
    try:
        parameters = inspect.signature(cls.to).parameters
    except (TypeError, ValueError):
        return False
    return "non_blocking" in parameters or any(
        each.kind is each.VAR_KEYWORD for each in parameters.values()
    )


def record_stream(batch: Any, stream: Any) -> bool:
    """Tell the allocator that a stream reads what is in a batch that another stream wrote.

    Returns:
        Whether all of it could be told. An object of another class with ``to`` may keep tensors
        where nobody finds them; those in its attributes are told all the same.
    """
    if isinstance(batch, Tensor):
        batch.record_stream(stream)
        return True
    if callable(getattr(batch, "record_stream", None)):
        batch.record_stream(stream)
        return True
    told = [record_stream(part, stream) for part in _parts(batch)]
    is_open = isinstance(batch, Mapping | tuple | list) or dataclasses.is_dataclass(batch)
    return all(told) and (is_open or not callable(getattr(batch, "to", None)))


def _parts(batch: Any) -> Iterator[Any]:
    """What a container holds, or an object with ``to`` has as attributes."""
    if isinstance(batch, Mapping):
        yield from batch.values()
    elif isinstance(batch, tuple | list):
        yield from batch
    elif hasattr(batch, "to") or dataclasses.is_dataclass(batch):
        yield from getattr(batch, "__dict__", {}).values()
        for cls in type(batch).__mro__:
            names = cls.__dict__.get("__slots__", ())
            for name in (names,) if isinstance(names, str) else names:
                if hasattr(batch, name):
                    yield getattr(batch, name)
