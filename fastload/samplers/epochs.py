"""The base of samplers whose order follows from a seed and an epoch alone.

Runs in: consumer.
Takes: a seed, an epoch, a position to start from.
Gives: the indices (or batches) of that epoch from that position on, and where a pass stands.

Nothing is drawn from a generator of the program, so ranks agree without talking to one another, and
any position of any epoch is reached without walking to it.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import BatchSampler, Sampler

T_co = TypeVar("T_co", covariant=True)

_DEEPEST = 16


def keys(seed: int, *purpose: int, count: int = 1) -> npt.NDArray[np.uint64]:
    """Return independent 64-bit keys ``(count,)`` for one purpose, such as one epoch.

    NumPy's ``SeedSequence`` gives the same ones on every machine and in every version of NumPy.
    """
    words: Any = np.random.SeedSequence(seed, spawn_key=purpose).generate_state(count, np.uint64)
    return words  # type: ignore[no-any-return]  # NumPy's stub leaves the width open


def natural(name: str, value: Any, least: int = 0) -> int:
    """Return an argument that must be a whole number of at least ``least``.

    Raises:
        TypeError: It is no integer.
        ValueError: It is too small.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, but got {value!r}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, but got {number}")
    return number


class EpochSampler(Sampler[T_co]):
    """A sampler whose order is a function of ``seed`` and ``epoch``.

    Call ``set_epoch`` before each epoch, as with torch's ``DistributedSampler``; otherwise every
    epoch has the same order, of which a warning tells once.

    Guarantees: equal arguments give equal orders, on every machine and rank;
    ``iter_from(position)`` gives what ``iter()`` gives from its element ``position`` on.

    Attributes:
        seed: The seed, as it was given.
        epoch: The epoch of the next pass.
    """

    is_shuffled = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = natural("seed", seed)
        self.epoch = 0
        self._start = 0
        self._newest: _Pass | None = None
        self._finished_epoch: int | None = None
        self._has_warned = False

    @property
    def inside(self) -> list[Any]:
        """Return the samplers that this one asks."""
        return []

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[T_co]:
        return self._begin(_Pass(self.epoch, self._start, is_whole=self._start == 0))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; a pass that has begun keeps its own.

        Raises:
            TypeError, ValueError: ``epoch`` is not an integer of at least zero.
        """
        epoch = natural("epoch", epoch)
        if epoch != self.epoch:
            self._start = 0
        self.epoch = epoch
        self._finished_epoch = None

    def iter_from(self, position: int) -> Iterator[T_co]:
        """Begin a pass that leaves out its first ``position`` elements, without drawing them.

        Raises:
            TypeError, ValueError: ``position`` is not an integer of at least zero.
        """
        return self._begin(_Pass(self.epoch, natural("position", position), is_whole=False))

    def state_dict(self) -> dict[str, int]:
        """Return where the newest pass stands, as ``seed``, ``epoch`` and ``position``.

        The position counts what was taken from the pass, delivered or not. A loader with workers
        takes ahead; ``fastload.DataLoader.state_dict()`` counts what was delivered, and is what to
        save with it.
        """
        newest = self._newest
        epoch, position = (self.epoch, 0) if newest is None else (newest.epoch, newest.position)
        return {"seed": self.seed, "epoch": epoch, "position": position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Make the next pass go on where ``state_dict`` was taken; later passes are whole.

        Raises:
            ValueError: It is no such state, or that of another seed.
        """
        try:
            seed, epoch, start = (state_dict[key] for key in ("seed", "epoch", "position"))
        except (KeyError, TypeError):
            raise ValueError(
                f"expected a state with seed, epoch and position, but got {state_dict!r}"
            ) from None
        if seed != self.seed:
            raise ValueError(
                f"this state is of a sampler with seed {seed}; this one has seed {self.seed}, so "
                f"its order is another one"
            )
        self.set_epoch(epoch)
        self._start = natural("position", start)
        self._newest = None

    def _chunks(self, epoch: int, position: int) -> Iterator[Sequence[T_co]]:
        """Yield the order of an epoch, from a position on, in pieces of any length."""
        raise NotImplementedError

    def _begin(self, one: _Pass) -> Iterator[T_co]:
        self._newest = one
        # The chain hands out the values in C; nothing is computed before the first is asked for.
        return chain.from_iterable(self._walk(one))

    def _walk(self, one: _Pass) -> Iterator[Iterator[T_co]]:
        # Now, at the first element, and not in `__iter__`: loaders make an iterator too many.
        self._start = 0
        if one.is_whole:
            self._warn_of_a_repeated(one.epoch)
        for chunk in self._chunks(one.epoch, one.end):
            yield one.over(chunk)
        self._finished_epoch = one.epoch

    def _warn_of_a_repeated(self, epoch: int) -> None:
        if self.is_shuffled and self._finished_epoch == epoch and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{type(self).__name__}: epoch {epoch} begins a second time, so its order is the "
                f"same again; call sampler.set_epoch(epoch) before each epoch",
                stacklevel=3,
            )


class EpochBatchSampler(EpochSampler[list[int]]):
    """An ``EpochSampler`` that yields the indices of whole batches."""

    @property
    def sampler(self) -> EpochBatchSampler:
        """Return itself: Lightning and others call ``loader.batch_sampler.sampler.set_epoch``."""
        return self


class _Pass:
    """Knows how far one pass has come, without a step of Python for each index."""

    def __init__(self, epoch: int, position: int, *, is_whole: bool) -> None:
        self.epoch = epoch
        self.end = position
        self.is_whole = is_whole
        self._chunk: Iterator[Any] = iter(())

    def over(self, chunk: Sequence[T_co]) -> Iterator[T_co]:
        self._chunk = iter(chunk)
        self.end += len(chunk)
        return self._chunk

    @property
    def position(self) -> int:
        return self.end - operator.length_hint(self._chunk)


def nested(sampler: Any) -> list[Any]:
    """List a sampler and the samplers inside it, each once, outermost first."""
    found: dict[int, Any] = {}
    waiting = [sampler]
    # The limit is for objects that invent any attribute they are asked for.
    while waiting and len(found) < _DEEPEST:
        one = waiting.pop(0)
        if one is None or id(one) in found:
            continue
        found[id(one)] = one
        waiting += [getattr(one, name, None) for name in ("batch_sampler", "sampler")]
        if isinstance(one, EpochSampler):
            waiting += one.inside
    return list(found.values())


def iter_from(sampler: Any, position: int) -> Iterator[Any] | None:
    """Start a sampler or batch sampler in the middle; return None where that needs a walk."""
    if hasattr(sampler, "iter_from"):
        return sampler.iter_from(position)  # type: ignore[no-any-return]
    inner: Any = getattr(sampler, "sampler", None)
    if type(sampler) is BatchSampler and hasattr(inner, "iter_from"):
        indices = inner.iter_from(position * sampler.batch_size)
        return iter(BatchSampler(indices, sampler.batch_size, sampler.drop_last))
    return None
