"""torch's weighted draws, for any number of weights.

Runs in: consumer.
Takes: weights, checked when the sampler is made.
Gives: torch's own draws up to 2**24 weights, which is where torch ends. Beyond, indices are drawn
by inverting the cumulative sum, or, without replacement, by sorting exponential variates; both in
float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.data

from fastload.samplers.random import in_chunks, own_generator

LARGEST_OF_TORCH = 1 << 24
"""``torch.multinomial`` refuses more categories."""

DRAWN_AT_ONCE = 1 << 20
"""So many draws are looked up together: sorted first, they walk through the sums in order."""


class WeightedRandomSampler(torch.utils.data.WeightedRandomSampler):
    """torch's ``WeightedRandomSampler`` without its limit, which checks weights when it is made.

    Up to 2**24 weights the draws are torch's. Beyond, with replacement, an index is the place of a
    uniform float64 in the cumulative sum, so a weight of zero is never drawn; without replacement
    the indices with the largest ``weight / Exp(1)`` are taken, as torch does it (Efraimidis and
    Spirakis, "Weighted random sampling with a reservoir", 2006).

    Args:
        weights: At least zero, finite, with a finite sum above zero; shape ``(categories,)``.
        num_samples: Draws of one pass.
        replacement: Whether an index may be drawn more than once.
        generator: Source of the draws; None: torch's global one.

    Raises:
        ValueError: As torch's; and for a weight that can't be one, with its index.

    Example:
        >>> set(WeightedRandomSampler([0.0, 1.0, 0.0], 5))
        {1}
    """

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int,
        replacement: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(weights, num_samples, replacement, generator)
        check_weights(on_host(self.weights))
        if not replacement and num_samples > len(self.weights):
            raise ValueError(
                f"{num_samples} samples can't be drawn from {len(self.weights)} weights without "
                f"replacement; draw fewer, or use replacement=True"
            )

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._chunks())

    def _chunks(self) -> Iterator[list[int]]:
        if len(self.weights) <= LARGEST_OF_TORCH:
            drawn = torch.multinomial(
                self.weights, self.num_samples, self.replacement, generator=self.generator
            )
            yield from in_chunks(on_host(drawn))
            return
        weights = on_host(self.weights)
        check_weights(weights)
        generator = own_generator() if self.generator is None else self.generator
        if self.replacement:
            yield from drawn_by_sum(weights, self.num_samples, generator)
        else:
            yield from in_chunks(drawn_by_race(weights, self.num_samples, generator))


def check_weights(weights: npt.NDArray[np.float64]) -> None:
    """Refuse weights that make no distribution.

    Raises:
        ValueError: A weight is negative, infinite or not a number, with its index; or all are
            zero, or there are none, or their sum is not finite.
    """
    # Two passes without a temporary array; what is not a number makes both of them false.
    if weights.size and not (weights.min() >= 0 and weights.max() < np.inf):
        (bad,) = np.nonzero(~((weights >= 0) & (weights < np.inf)))
        raise ValueError(
            f"weights must be finite and at least zero, but weights[{bad[0]}] is "
            f"{weights[bad[0]]}; {bad.size} of {weights.size} are wrong"
        )
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not 0 < total < np.inf:
        raise ValueError(
            f"the sum of weights must be positive and finite, but it is {total} "
            f"({weights.size} weights)"
        )


def drawn_by_sum(
    weights: npt.NDArray[np.float64], count: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """Draw with replacement; yield lists of indices."""
    sums = np.cumsum(weights)
    last = int(np.searchsorted(sums, sums[-1]))  # The last index with a weight above zero.
    for start in range(0, count, DRAWN_AT_ONCE):
        size = min(DRAWN_AT_ONCE, count - start)
        uniform: Any = torch.rand(size, dtype=torch.float64, generator=generator).numpy()
        order = np.argsort(uniform)
        drawn = np.empty(size, np.int64)
        drawn[order] = np.searchsorted(sums, uniform[order] * sums[-1], side="right")
        # A product may round up to the sum itself.
        yield from in_chunks(np.minimum(drawn, last, out=drawn))


def drawn_by_race(
    weights: npt.NDArray[np.float64], count: int, generator: torch.Generator
) -> npt.NDArray[np.int64]:
    """Draw without replacement those whose exponential clock of rate ``weight`` rings first."""
    clocks = torch.empty(weights.shape, dtype=torch.float64).exponential_(generator=generator)
    torch.div(torch.from_numpy(weights), clocks, out=clocks)
    return on_host(torch.topk(clocks, count).indices)


def on_host(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """Return a tensor's elements, wherever they are."""
    return tensor.detach().cpu().numpy()
