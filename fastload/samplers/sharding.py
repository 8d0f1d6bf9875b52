"""Deal what any sampler or batch sampler yields to the ranks of a distributed job.

Runs in: consumer, on every rank.
Takes: a sampler, the rank and the number of ranks.
Gives: this rank's part of what the sampler yields; all parts together are all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from fastload.samplers.dealing import Contiguous, Dealing, Stride
from fastload.samplers.epochs import EpochSampler, nested
from fastload.samplers.isolation import NoDraws, OwnDraws
from fastload.samplers.ranks import rank_and_world_size

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
Even = Literal["pad", "drop", "none", "mask"]
Split = Literal["stride", "contiguous"]

_DEALINGS: dict[str, type[Dealing]] = {"stride": Stride, "contiguous": Contiguous}
_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
_EVENS = ("pad", "drop", "none", "mask")


def shard(
    sampler: Iterable[T],
    rank: int | None = None,
    world_size: int | None = None,
    even: Even = "pad",
    *,
    split: Split = "stride",
    seed: int = 0,
) -> Shard[T]:
    """Return this rank's part of what a sampler, batch sampler or any other iterable yields.

    Every rank iterates over the sampler itself, so the samplers must yield the same on all ranks.
    Those that draw from global generators do: they draw from ones that belong to the shard and
    follow from ``seed`` and the epoch. A ``torch.Generator`` that a sampler holds is used as it is:
    seed it alike on all ranks.

    Args:
        sampler: Yields indices or batches of indices; whatever it yields is dealt as a whole.
        rank: This process; None: ``torch.distributed``'s, or the environment's ``RANK``, or 0.
        world_size: All processes; None: likewise, from ``WORLD_SIZE``, or 1.
        even: What to do if the number of elements is no multiple of ``world_size``. "pad": repeat
            the first ones, as torch does. "mask": the same, for evaluation: ``mask()`` says which
            are repeats and ``merge()`` leaves them out. "drop": leave out the last ones. "none":
            some ranks get one element less, which hangs a training that synchronises each step.
        split: "stride": rank r gets the elements r, r + world_size, …; the batches of one step are
            neighbours in the stream. "contiguous": each rank gets one stretch, which keeps the
            locality of a ``BlockShuffleSampler``; the sampler must have a length.
        seed: Common seed for samplers that draw from global generators.

    Raises:
        TypeError: ``sampler`` can't be iterated, or has no length and ``split`` needs one; or it
            is distributed already, so that each rank would get a part of a part.
        ValueError: Wrong ``rank``, ``world_size``, ``even`` or ``split``.

    Example:
        >>> [list(shard(range(5), rank, 2)) for rank in range(2)]
        [[0, 2, 4], [1, 3, 0]]
        >>> [shard(range(5), rank, 2, "mask").mask().tolist() for rank in range(2)]
        [[True, True, True], [True, True, False]]
    """
    return Shard(sampler, rank, world_size, even, split=split, seed=seed)


class Shard(EpochSampler[T_co], DistributedSampler[T_co]):
    """What ``shard`` returns: a sampler that yields one rank's part of another.

    It is a ``DistributedSampler`` for trainers, which then leave it alone; nothing of torch's is
    used but the names of its attributes.

    Attributes:
        source: The sampler that is dealt.
        rank, num_replicas: The number of this process, and of how many.
        even, split: What was given to ``shard``.
    """

    def __init__(
        self,
        sampler: Iterable[T_co],
        rank: int | None = None,
        world_size: int | None = None,
        even: Even = "pad",
        *,
        split: Split = "stride",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        _check(sampler, even, split)
        self.source: Any = sampler
        self.dataset: Any = sampler
        self.rank, self.num_replicas = rank_and_world_size(rank, world_size)
        self.even, self.split = even, split
        self.shuffle, self.drop_last = False, even == "drop"
        self.epoch = getattr(sampler, "epoch", 0)
        self.is_shuffled = _repeats_each_epoch(sampler)
        self._dealing = _DEALINGS[split](self.rank, self.num_replicas, even)
        if split == "contiguous":
            self._total()

    @property
    def sampler(self) -> Shard[T_co]:
        """Return itself: Lightning and others call ``loader.batch_sampler.sampler.set_epoch``."""
        return self

    @property
    def inside(self) -> list[Any]:
        """Return the sampler that is dealt."""
        return [self.source]

    @property
    def batch_size(self) -> Any:
        """Return the batch sampler's ``batch_size``, or None if it has none."""
        return getattr(self.source, "batch_size", None)

    def __len__(self) -> int:
        return self._dealing.length(self._total())

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass, also of every sampler inside."""
        super().set_epoch(epoch)
        for one in nested(self.source):
            forward = getattr(one, "set_epoch", None)
            if callable(forward):
                forward(epoch)

    def mask(self) -> torch.Tensor:
        """Say which of this rank's elements are its own, as bool ``(len(self),)``; repeats are not.

        ``zip(loader, sampler.mask().split(batch_size))`` gives each batch its part.

        Raises:
            TypeError: The sampler has no length.
        """
        return torch.arange(len(self), device="cpu") < self._dealing.own(self._total())

    def merge(self, parts: Sequence[Sequence[T]]) -> list[T]:
        """Join what the ranks made of their elements, in the order of one process, without repeats.

        Args:
            parts: One sequence for each rank, in the order of ranks, such as
                ``torch.distributed.all_gather_object`` gives them.

        Raises:
            TypeError: The sampler has no length.
            ValueError: Their number, or the length of one, is not what the ranks have yielded.
        """
        return self._dealing.merge(parts, self._total())

    def _total(self) -> int:
        try:
            return len(self.source)
        except TypeError as error:
            raise TypeError(
                f"this shard has no length, and split='contiguous' no meaning, because the sampler "
                f"has no length: {error}"
            ) from error

    def _chunks(self, epoch: int, position: int) -> Iterator[Sequence[T_co]]:
        draws = NoDraws() if _draws_nothing(self.source) else OwnDraws(self.seed, epoch)
        chunks = self._dealing.chunks(self.source, position)
        while True:
            with draws.in_place():
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk


def _draws_nothing(sampler: Any) -> bool:
    """Return whether all samplers are of kinds that draw from no global generator."""
    return all(
        isinstance(one, EpochSampler | SequentialSampler | Sequence) or type(one) is BatchSampler
        for one in nested(sampler)
    )


def _repeats_each_epoch(sampler: Any) -> bool:
    """Return whether the order is random, and is repeated if ``set_epoch`` is forgotten."""
    return any(
        (isinstance(one, EpochSampler) and one.is_shuffled)
        or (isinstance(one, _RANDOM) and one.generator is None)
        for one in nested(sampler)
    )


def _check(sampler: Any, even: str, split: str) -> None:
    if not hasattr(sampler, "__iter__"):
        raise TypeError(f"shard takes a sampler or batch sampler, but got {sampler!r}")
    if even not in _EVENS:
        raise ValueError(f"even must be one of {_EVENS}, but got {even!r}")
    if split not in _DEALINGS:
        raise ValueError(f"split must be one of {tuple(_DEALINGS)}, but got {split!r}")
    for one in nested(sampler):
        if isinstance(one, DistributedSampler):
            raise TypeError(
                f"{type(one).__name__} gives each rank its part already; sharded again, each rank "
                f"would get a part of that part. Shard the sampler before it is distributed"
            )
