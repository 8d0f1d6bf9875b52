"""A set of objects that others own, of which any thread may ask at any time.

Runs in: consumer.

The loop over a ``weakref.WeakSet`` raises if another thread adds to it meanwhile.
"""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

T = TypeVar("T")


class WeakSet(Generic[T]):
    """Holds weak references, by identity."""

    def __init__(self) -> None:
        self._objects: weakref.WeakValueDictionary[int, T] = weakref.WeakValueDictionary()

    def add(self, each: T) -> None:
        """Put one in."""
        self._objects[id(each)] = each

    def discard(self, each: T) -> None:
        """Take one out, if it is in."""
        self._objects.pop(id(each), None)

    def all(self) -> list[T]:
        """Those that are alive."""
        references = self._objects.valuerefs()  # one call into C
        return [each for reference in references if (each := reference()) is not None]
