"""A list of Python objects that all workers share.

Runs in: any process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

from fastload._memory.shared_bytes import SharedBytes
from fastload.datasets.shared.flat_objects import pack, reader

T = TypeVar("T")


class SharedList(Sequence[T]):
    """A read-only list in flat memory, one copy for all processes.

    A list of a million strings is a million objects, and reading one writes to its reference
    count: so each worker slowly gets a private copy of them all. Here the objects lie in one
    piece of shared memory without reference counts; each access makes a new object.

    Indices, slices, ``len``, ``in``, ``==``, ``index`` and ``count`` behave as a list's. A slice
    is a SharedList too and copies nothing. What comes out is a copy: changing a dict that was
    taken out changes nothing in here. Objects of one type (int, float, bool, str, bytes) lie
    densely; everything else is pickled object by object, and must be picklable.

    A process that is being started as a worker gets the memory itself, by any start method;
    ``pickle.dumps`` gets a copy of the content. Each SharedList keeps one descriptor open.

    Args:
        items: The objects, in their order. They are only read.

    Raises:
        OSError: There is no memory for the content.
        Exception: An object can't be pickled.

    Example:
        >>> paths = SharedList(f"image_{number}.jpeg" for number in range(1000))
        >>> paths[-1], len(paths), list(paths[:2])
        ('image_999.jpeg', 1000, ['image_0.jpeg', 'image_1.jpeg'])
    """

    __slots__ = ("__weakref__", "_frozen", "_kind", "_positions", "_read")

    def __init__(self, items: Iterable[T] = ()) -> None:
        objects = items if isinstance(items, list | tuple) else list(items)
        kind, chunks = pack(objects)
        self._show(SharedBytes.of(chunks), kind, range(len(objects)))

    def _show(self, frozen: SharedBytes, kind: str, positions: range) -> None:
        self._frozen = frozen
        self._kind = kind
        self._positions = positions
        self._read = reader(kind, frozen.chunks)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> SharedList[T]: ...
    def __getitem__(self, index: Any) -> Any:
        """Return an object, or a SharedList of the objects in a slice.

        Raises:
            IndexError: There is no such object.
            TypeError: The index is neither an integer nor a slice.
        """
        try:
            position: Any = self._positions[index]
        except (IndexError, TypeError) as error:
            text = (
                str(error).replace("range object", "list").replace("range indices", "list indices")
            )
            raise type(error)(text) from None
        if isinstance(index, slice):
            return _shown(self._frozen, self._kind, position)
        return self._read(position)

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[T]:
        return map(self._read, self._positions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | SharedList):
            return NotImplemented
        return len(self) == len(other) and all(
            mine is theirs or mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def __repr__(self) -> str:
        return f"SharedList({len(self)} {self._kind}, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Return the bytes of shared memory behind this list, or the list it is a slice of."""
        return self._frozen.nbytes

    def __copy__(self) -> SharedList[T]:
        return self

    def __deepcopy__(self, memo: object) -> SharedList[T]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _shown, (self._frozen, self._kind, self._positions)


def _shown(frozen: SharedBytes, kind: str, positions: range) -> SharedList[Any]:
    shared: SharedList[Any] = SharedList.__new__(SharedList)
    shared._show(frozen, kind, positions)
    return shared
