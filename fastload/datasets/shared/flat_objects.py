"""Store a sequence of Python objects as flat bytes, and read single objects of it.

Runs in: any process.
Takes: a list of objects.
Gives: a kind and one or two chunks of bytes; and, of these, a function that reads an object.

Objects of one type lie densely: int (as far as 64 bits go), float and bool as numbers, str and
bytes one after the other with the offsets of their ends. Anything else, and any mixture, is pickled
object by object.
"""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

from fastload._torch_private import unpickled
from fastload.errors import annotate

Chunk = Any
"""A chunk is anything with the buffer protocol."""

Read = Callable[[int], Any]
"""Gives the object at a position from 0 to length - 1; the caller sees to the bounds."""

MADE_BY_PICKLE = "objects"


def pack(objects: Sequence[Any]) -> tuple[str, list[Chunk]]:
    """Return the kind of column that these objects make, and its chunks.

    Raises:
        Exception: An object can't be pickled; a note says at which position it is.
    """
    types = set(map(type, objects))
    only = types.pop() if len(types) == 1 else None
    if only is bool:
        return "bool", [bytes(objects)]
    if only is int or only is float:
        try:
            return only.__name__, [array("q" if only is int else "d", objects)]
        except OverflowError:  # an int of more than 64 bits
            pass
    if only is str:
        return "str", _pack_bytes([text.encode("utf-8", "surrogatepass") for text in objects])
    if only is bytes:
        return "bytes", _pack_bytes(objects)
    return MADE_BY_PICKLE, _pack_bytes(list(_pickled(objects)))


def reader(kind: str, chunks: Sequence[memoryview]) -> Read:
    """Return a function that reads an object of a column."""
    if kind in _NUMBERS:
        return _NUMBERS[kind](chunks[0])
    return _PIECES[kind](chunks[0].cast("q"), chunks[1])


def chunks_of(kind: str) -> int:
    """Return of how many chunks a column of a kind consists."""
    return 1 if kind in _NUMBERS else 2


def _pack_bytes(pieces: Sequence[bytes]) -> list[Chunk]:
    offsets = array("q", chain((0,), accumulate(map(len, pieces))))
    return [offsets, b"".join(pieces)]


def _pickled(objects: Iterable[Any]) -> Iterable[bytes]:
    for position, item in enumerate(objects):
        try:
            yield pickle.dumps(item, protocol=5)
        except Exception as error:
            annotate(error, f"while packing the {type(item).__name__} at position {position}")
            raise


def _read_str(offsets: memoryview[int], content: memoryview) -> Read:
    # The argument's default is a local variable: half the time of a look-up outside.
    def read(position: int, offsets: Any = offsets, content: Any = content) -> str:
        return str(content[offsets[position] : offsets[position + 1]], "utf-8", "surrogatepass")

    return read


def _read_bytes(offsets: memoryview[int], content: memoryview) -> Read:
    def read(position: int) -> bytes:
        return bytes(content[offsets[position] : offsets[position + 1]])

    return read


def _read_pickled(offsets: memoryview[int], content: memoryview) -> Read:
    def read(position: int) -> Any:
        piece = content[offsets[position] : offsets[position + 1]]
        return unpickled(lambda: pickle.loads(piece))

    return read


_NUMBERS: dict[str, Callable[[memoryview], Read]] = {
    "int": lambda chunk: chunk.cast("q").__getitem__,
    "float": lambda chunk: chunk.cast("d").__getitem__,
    "bool": lambda chunk: chunk.cast("?").__getitem__,
}
_PIECES: dict[str, Callable[[memoryview[int], memoryview], Read]] = {
    "str": _read_str,
    "bytes": _read_bytes,
    MADE_BY_PICKLE: _read_pickled,
}
