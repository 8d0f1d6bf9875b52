"""Say which elements of a stream belong to which rank.

Runs in: consumer.
Takes: an iterable that is the same on every rank.
Gives: one rank's elements, a list at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain, cycle, islice
from typing import Any, TypeVar

from fastload._system.interruptions import is_from_outside
from fastload.samplers.epochs import iter_from

T = TypeVar("T")

_INDICES_AT_ONCE = 1 << 16
_BATCHES_AT_ONCE = 64
"""So many are taken ahead, over all ranks, since putting generators in place costs time."""


class Dealing(ABC):
    """One rank's share of a stream.

    Args:
        rank: The number of this process.
        ranks: The number of processes.
        even: "pad" and "mask" repeat the first elements until all ranks have as many as the one
            with the most, "drop" leaves out the last ones, "none" does neither.
    """

    def __init__(self, rank: int, ranks: int, even: str) -> None:
        self.rank, self.ranks, self.even = rank, ranks, even
        self.pads = even in {"pad", "mask"}

    def length(self, total: int) -> int:
        """Return how many elements this rank gets of ``total``, repeats included."""
        if self.pads:
            return -(-total // self.ranks)
        return total // self.ranks if self.even == "drop" else self.own(total)

    @abstractmethod
    def own(self, total: int) -> int:
        """Return how many of this rank's elements are no repeats; the repeats come last."""

    @abstractmethod
    def chunks(self, source: Any, position: int) -> Iterator[list[Any]]:
        """Yield this rank's elements, from its element ``position`` on, in lists."""

    def merge(self, parts: Sequence[Sequence[T]], total: int) -> list[T]:
        """Join the ranks' parts in the order of the stream, without repeats.

        Raises:
            ValueError: Their number, or the length of one, is not what the ranks have yielded.
        """
        dealings = [type(self)(rank, self.ranks, self.even) for rank in range(self.ranks)]
        lengths = [dealing.length(total) for dealing in dealings]
        if [len(part) for part in parts] != lengths:
            raise ValueError(
                f"the ranks have {lengths} elements, but got {len(parts)} parts of "
                f"{[len(part) for part in parts]}"
            )
        own = [list(parts[d.rank])[: d.own(total)] for d in dealings]
        return self._in_order(own)

    @abstractmethod
    def _in_order(self, own: list[list[T]]) -> list[T]: ...


class Stride(Dealing):
    """Deals the elements r, r + ranks, r + 2 * ranks, … to rank r; the stream needs no length."""

    def own(self, total: int) -> int:
        """Return all whole rounds, and the last one if the rank has an element in it."""
        most = -(-max(total - self.rank, 0) // self.ranks)
        return min(most, total // self.ranks) if self.even == "drop" else most

    def chunks(self, source: Any, position: int) -> Iterator[list[Any]]:
        """Take every round of the stream whole; one element of it is this rank's.

        A source that computes any of its elements by itself is asked for this rank's alone.
        """
        if hasattr(source, "strided"):
            yield from self._computed(source, position)
            return
        first, stream = _started(source, position * self.ranks, self.ranks)
        # A multiple of the ranks, so that no round but the last can be incomplete.
        many = max(_at_once(first) // self.ranks, 1) * self.ranks
        while True:
            taken, error = _take(stream, many)
            whole = len(taken) - len(taken) % self.ranks
            mine = taken[self.rank : whole : self.ranks]
            if error is not None:
                yield mine
                raise error
            yield mine + self._last(taken[whole:], first)
            if len(taken) < many:
                return

    def _computed(self, source: Any, position: int) -> Iterator[list[Any]]:
        total = len(source)
        mine = source.strided(self.rank + position * self.ranks, self.ranks)
        mine = islice(mine, max(self.own(total) - position, 0))
        while taken := list(islice(mine, _INDICES_AT_ONCE)):
            yield taken
        repeats = range(max(position, self.own(total)), self.length(total))
        if repeats:
            first = list(islice(source.strided(0, 1), self.ranks))
            yield [first[(self.rank + place * self.ranks) % total] for place in repeats]

    def _last(self, rest: list[Any], first: list[Any]) -> list[Any]:
        """Return this rank's element of the round that is not whole, if it gets one."""
        if not rest or self.even == "drop":
            return []
        if self.pads:
            rest = list(islice(chain(rest, cycle(first)), self.ranks))
        return rest[self.rank : self.rank + 1]

    def _in_order(self, own: list[list[T]]) -> list[T]:
        total = sum(len(part) for part in own)
        return [own[place % self.ranks][place // self.ranks] for place in range(total)]


class Contiguous(Dealing):
    """Deals one stretch of the stream to each rank, in the order of ranks."""

    def own(self, total: int) -> int:
        """Return the length of the part of the stretch that lies within the stream."""
        start, stop = self._stretch(total)
        return max(min(stop, total) - start, 0)

    def chunks(self, source: Any, position: int) -> Iterator[list[Any]]:
        """Ask for this rank's stretch alone, if the source can begin anywhere."""
        total = len(source)
        start, stop = self._stretch(total)
        start += position
        first, stream = _started(source, min(start, total), self.ranks)
        left = min(stop, total) - start
        while left > 0:
            taken, error = _take(stream, min(left, _at_once(first)))
            yield taken
            if error is not None:
                raise error
            if not taken:
                raise ValueError(f"the sampler has length {total}, but yielded {left} fewer")
            left -= len(taken)
        yield [first[place % total] for place in range(max(start, total), stop)]

    def _stretch(self, total: int) -> tuple[int, int]:
        if self.even == "none":
            return self.rank * total // self.ranks, (self.rank + 1) * total // self.ranks
        length = -(-total // self.ranks) if self.pads else total // self.ranks
        return self.rank * length, (self.rank + 1) * length

    def _in_order(self, own: list[list[T]]) -> list[T]:
        return list(chain.from_iterable(own))


def _started(source: Any, position: int, count: int) -> tuple[list[Any], Iterator[Any]]:
    """Return the first ``count`` elements, and a pass from a position on."""
    jumped = iter_from(source, position)
    if jumped is not None:
        return list(islice(iter_from(source, 0) or (), count)), jumped
    stream = iter(source)
    first = list(islice(stream, count))
    return first, islice(chain(first, stream), position, None)


def _at_once(first: list[Any]) -> int:
    return _BATCHES_AT_ONCE if first and isinstance(first[0], list | tuple) else _INDICES_AT_ONCE


def _take(stream: Iterator[Any], count: int) -> tuple[list[Any], Exception | None]:
    """Return up to ``count`` elements, and the error that came after them, to be raised then."""
    taken: list[Any] = []
    try:
        taken.extend(islice(stream, count))  # Unlike list(), keeps what came before an error.
    except Exception as error:  # raised by the caller
        if is_from_outside(error):
            raise
        return taken, error
    return taken, None
