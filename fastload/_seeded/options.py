"""The arguments of a loader that have to do with ``seed=``, checked once.

Runs in: consumer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastload._seeded.own_streams import makes_batches
from fastload._seeded.steps import EVEN, Even
from fastload._seeded.stream_order import check_sampler
from fastload.samplers.epochs import natural


@dataclass(frozen=True)
class StreamOptions:
    """What says how a seeded stream is dealt.

    Attributes:
        seed: The loader's seed; None without one.
        num_replicas, rank: As given to the loader.
        even: What becomes of an incomplete step.
        batch_size: Samples of a batch; None: each item is one.
        drop_last: Leave out an incomplete step.
    """

    seed: int | None
    num_replicas: int | None
    rank: int | None
    even: Even
    batch_size: int | None
    drop_last: bool

    def check(
        self,
        dataset: Any,
        samplers: tuple[Any, Any],
        generator: Any,
        *,
        in_order: bool,
        is_automatic: bool,
    ) -> None:
        """Check the arguments together with those of torch that they exclude.

        Raises:
            TypeError: A number is no integer.
            ValueError: A number is out of range, or arguments exclude each other.
        """
        if self.even not in EVEN:
            raise ValueError(f"even is one of {', '.join(EVEN)}, but got {self.even!r}")
        if self.seed is None:
            self._check_without_seed()
            return
        natural("seed", self.seed)
        self._check_ranks()
        if generator is not None:
            raise ValueError(
                f"seed={self.seed} and generator= exclude each other: with a seed, all random "
                f"numbers follow from it"
            )
        if is_automatic:
            raise ValueError(
                f'seed={self.seed} and num_workers="auto" do not go together yet; give a number'
            )
        if not in_order:
            raise ValueError(
                f"seed={self.seed} and in_order=False exclude each other: with a seed, the order "
                f"is part of what is promised"
            )
        if makes_batches(dataset) and self.batch_size is not None:
            raise ValueError(
                f"{type(dataset).__name__}(batch_size={dataset.batch_size}) makes batches itself, "
                f"so the loader must not; give batch_size=None to one of them, but got "
                f"batch_size={self.batch_size} for the loader"
            )
        for sampler in samplers:
            check_sampler(sampler)

    def _check_without_seed(self) -> None:
        given = {"num_replicas": self.num_replicas, "rank": self.rank}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{name}={value} needs seed=: without a seed, ranks get their parts from the "
                    f"sampler, such as torch's DistributedSampler or fastload.shard"
                )

    def _check_ranks(self) -> None:
        if self.num_replicas is None:
            if self.rank is not None:
                raise ValueError(f"rank={self.rank!r} needs num_replicas=: among how many ranks")
            return
        natural("num_replicas", self.num_replicas, least=1)
        if self.rank is None and self.num_replicas > 1:
            raise ValueError(f"num_replicas={self.num_replicas} needs rank=: which of them is this")
        if self.rank is not None and natural("rank", self.rank) >= self.num_replicas:
            raise ValueError(
                f"rank must be below num_replicas ({self.num_replicas}), but got {self.rank}"
            )
