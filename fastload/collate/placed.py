"""The base of those collate functions that can be told where to put their results.

Runs in: worker (consumer with ``num_workers=0``).

Called like any collate function, one of these returns ordinary memory. When it is the loader's own
``collate_fn``, the worker calls ``into`` with the slot of the batch instead, and nothing is copied
twice. That is done for the loader's own alone, since a user's function might keep what it gets.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fastload._memory.fake_tensors import stand_ins, with_fake_tensors
from fastload._memory.write import HEAP, Place
from fastload._system.interruptions import is_from_outside
from fastload._torch_private import dispatch_modes, fake_mode


class PlacedCollate(ABC):
    """A collate function that can write into a slot: a callable object that holds its settings."""

    __slots__ = ()

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collate into ordinary memory."""
        return self.into(samples, HEAP)

    def into(self, samples: Sequence[Any], place: Place) -> Any:
        """Collate into ``place``; under ``FakeTensorMode``, compute the shapes alone."""
        if dispatch_modes() and fake_mode() is not None:
            return with_fake_tensors(lambda: self.collate(stand_ins(samples), place))
        return self.collate(samples, place)

    @abstractmethod
    def collate(self, samples: Sequence[Any], place: Place) -> Any:
        """Collate real samples into ``place``."""


Function = TypeVar("Function", bound=Callable[..., Any])

_SETTINGS: dict[Any, Callable[..., PlacedCollate]] = {}


def function_of(settings: Callable[..., PlacedCollate]) -> Callable[[Function], Function]:
    """Declare a plain function to do what ``settings(**keywords)`` does when called."""

    def declare(function: Function) -> Function:
        _SETTINGS[function] = settings
        return function

    return declare


def as_placed(collate_fn: Any) -> PlacedCollate | None:
    """Return a collate function of ours as an object, also where it is one in a ``partial``.

    Anything else gives None, and so do wrong settings: calling the function says what is wrong.
    """
    if isinstance(collate_fn, PlacedCollate):
        is_ours = type(collate_fn).__call__ is PlacedCollate.__call__
        return collate_fn if is_ours else None
    keywords: dict[str, Any] = {}
    while type(collate_fn) is functools.partial and not collate_fn.args:
        keywords = {**collate_fn.keywords, **keywords}
        collate_fn = collate_fn.func
    try:
        return _SETTINGS[collate_fn](**keywords)
    except Exception as error:  # unhashable, unknown, or wrong settings
        if is_from_outside(error):
            raise
        return None
