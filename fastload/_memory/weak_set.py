"""A set of objects that others own, which any thread may ask at any time.

Runs in: consumer.

Looping over a ``weakref.WeakSet`` raises if another thread adds to it meanwhile; this set does not.
"""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

T = TypeVar("T")


class WeakSet(Generic[T]):
    """Holds weak references to objects, which it tells apart by identity."""

    def __init__(self) -> None:
        self._objects: weakref.WeakValueDictionary[int, T] = weakref.WeakValueDictionary()

    def add(self, each: T) -> None:
        """Put an object in."""
        self._objects[id(each)] = each

    def discard(self, each: T) -> None:
        """Take an object out, if it is in."""
        self._objects.pop(id(each), None)

    def all(self) -> list[T]:
        """Return the objects that are alive."""
        references = self._objects.valuerefs()  # one call into C
        return [each for reference in references if (each := reference()) is not None]
