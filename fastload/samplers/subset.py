"""torch's random order of given indices, drawn into an array instead of a list.

Runs in: consumer.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.utils.data

from fastload.samplers.random import in_chunks, permutation


class SubsetRandomSampler(torch.utils.data.SubsetRandomSampler):
    """torch's ``SubsetRandomSampler``: the same indices and the same draws, for less memory.

    Arguments, errors and ``len`` are torch's.

    Example:
        >>> sorted(SubsetRandomSampler([3, 5, 8]))
        [3, 5, 8]
    """

    def __iter__(self) -> Iterator[int]:
        for chunk in in_chunks(permutation(len(self.indices), self.generator)):
            for place in chunk:
                yield self.indices[place]
