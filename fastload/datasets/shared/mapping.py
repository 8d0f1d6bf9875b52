"""A dict of Python objects that all workers share.

Runs in: any process.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Any, TypeVar

from fastload._memory.shared_bytes import SharedBytes
from fastload.datasets.shared.flat_objects import chunks_of, pack, reader
from fastload.datasets.shared.hashing import Table

K = TypeVar("K")
V = TypeVar("V")


class SharedDict(Mapping[K, V]):
    """A read-only dict in flat memory, one copy for all processes, as `SharedList` is a list.

    Keys are str, bytes, numbers, None, or tuples of these; values are what a `SharedList` can hold.
    Look-up, ``in``, ``get``, iteration in the order of insertion, ``keys``, ``values``, ``items``
    and ``==`` behave as a dict's.

    Args:
        items: A mapping, or pairs; of equal keys the last one counts.

    Raises:
        TypeError: A key is of another type.
        OSError: There is no memory for the content.
        Exception: A value can't be pickled.

    Example:
        >>> captions = SharedDict({"a.jpeg": ("a cat", 3), "b.jpeg": ("a dog", 5)})
        >>> captions["b.jpeg"], "c.jpeg" in captions
        (('a dog', 5), False)
    """

    __slots__ = (
        "__weakref__",
        "_frozen",
        "_kinds",
        "_length",
        "_read_key",
        "_read_value",
        "_table",
    )

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        content = items if isinstance(items, dict) else dict(items)
        keys = list(content)
        table = Table.of(keys)
        key_kind, key_chunks = pack(keys)
        value_kind, value_chunks = pack(list(content.values()))
        frozen = SharedBytes.of([*table.chunks, *key_chunks, *value_chunks])
        self._show(frozen, (key_kind, value_kind), len(keys))

    def _show(self, frozen: SharedBytes, kinds: tuple[str, str], length: int) -> None:
        self._frozen = frozen
        self._kinds = kinds
        self._length = length
        values_at = 2 + chunks_of(kinds[0])
        self._table = Table(frozen.chunks[:2])
        self._read_key = reader(kinds[0], frozen.chunks[2:values_at])
        self._read_value = reader(kinds[1], frozen.chunks[values_at:])

    def __getitem__(self, key: K) -> V:
        position = self._find(key)
        if position < 0:
            raise KeyError(key)
        value: V = self._read_value(position)
        return value

    def __contains__(self, key: object) -> bool:
        return self._find(key) >= 0

    def _find(self, key: Any) -> int:
        try:
            return self._table.find(key, self._read_key)
        except TypeError:
            hash(key)  # what no dict takes raises here; what no SharedDict takes is not in it
            return -1

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[K]:
        return map(self._read_key, range(self._length))

    def values(self) -> ValuesView[V]:
        """Return the values, in the order of their keys."""
        return _Values(self)

    def items(self) -> ItemsView[K, V]:
        """Return the pairs of key and value, in the order of insertion."""
        return _Items(self)

    def __repr__(self) -> str:
        keys, values = self._kinds
        return f"SharedDict({len(self)} {keys}: {values}, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Return the bytes of shared memory behind this dict."""
        return self._frozen.nbytes

    def __copy__(self) -> SharedDict[K, V]:
        return self

    def __deepcopy__(self, memo: object) -> SharedDict[K, V]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _shown, (self._frozen, self._kinds, self._length)


class _Values(ValuesView[V]):
    """A view of the values that reads them without looking up their keys."""

    _mapping: SharedDict[Any, V]

    def __iter__(self) -> Iterator[V]:
        return map(self._mapping._read_value, range(len(self._mapping)))


class _Items(ItemsView[K, V]):
    """A view of the pairs that reads them without looking up their keys."""

    _mapping: SharedDict[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return zip(self._mapping, self._mapping.values(), strict=True)


def _shown(frozen: SharedBytes, kinds: tuple[str, str], length: int) -> SharedDict[Any, Any]:
    shared: SharedDict[Any, Any] = SharedDict.__new__(SharedDict)
    shared._show(frozen, kinds, length)
    return shared
