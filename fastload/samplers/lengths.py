"""Group samples of similar length, so that little of a batch is padding.

Runs in: consumer.
Takes: the length of every sample.
Gives: batches of indices. An epoch's random order is cut into windows; each window is sorted by
length and cut into batches, and these are shuffled. So nothing is sorted or stored beyond one
window.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload.samplers.epochs import EpochBatchSampler, natural
from fastload.samplers.permutation import Permutation

WINDOW = 400
"""So many batches are sorted together, unless the user says otherwise.

With 32 samples of log-normal lengths (sigma 0.8) a batch, 2.9 % of what is loaded is padding; 8.3 %
with 100, 13 % with 50. Windows of 12,800 samples take 2 ms.
"""

_OF_SAMPLES, _OF_BATCHES = 0, 1

Indices = npt.NDArray[np.int64]


class WindowedBatchSampler(EpochBatchSampler):
    """The base of batch samplers that sort a window of an epoch's order by length.

    Args:
        lengths: The length of each sample; shape ``(samples,)``, integers of at least zero.
        seed: Chooses the order together with the epoch; the same on every rank.
        shuffle: False: windows are cut from the dataset's order and their batches come longest
            first; for evaluation.
    """

    def __init__(self, lengths: Any, *, seed: int, shuffle: bool) -> None:
        super().__init__(seed)
        self.lengths = checked_lengths(lengths)
        self.shuffle = self.is_shuffled = bool(shuffle)
        self._ends = np.zeros(0, np.int64)

    def _chunks(self, epoch: int, position: int) -> Iterator[Sequence[list[int]]]:
        order = Permutation(self._samples(), self.seed, epoch, _OF_SAMPLES)
        first, left_out = self._find(epoch, position) if position else (0, 0)
        for number in range(first, len(self._ends)):
            batches = self._batches(epoch, order, number)
            yield batches[left_out:]
            left_out = 0

    def _sorted_window(self, order: Permutation, number: int) -> tuple[Indices, Indices]:
        """Return the samples of a window, longest first, and their lengths."""
        start = int(self._ends[number - 1]) if number else 0
        places = np.arange(start, int(self._ends[number]))
        samples = self._sample_at(order(places) if self.shuffle else places)
        lengths = self.lengths[samples]
        by_length = np.argsort(-lengths, kind="stable")
        return samples[by_length], lengths[by_length]

    def _shuffled(
        self, batches: list[list[int]], epoch: int, number: int, last: int = 0
    ) -> list[list[int]]:
        """Return a window's batches in random order; the ``last`` ones stay where they are."""
        if not self.shuffle:
            return batches
        movable = len(batches) - last
        moved = Permutation(movable, self.seed, epoch, _OF_BATCHES, number)(np.arange(movable))
        return [batches[place] for place in moved.tolist()] + batches[movable:]

    def _sample_at(self, places: Indices) -> Indices:
        return places

    @abstractmethod
    def _samples(self) -> int:
        """Return how many samples an epoch has."""

    @abstractmethod
    def _find(self, epoch: int, position: int) -> tuple[int, int]:
        """Return the window that has the batch ``position``, and which of its batches that is."""

    @abstractmethod
    def _batches(self, epoch: int, order: Permutation, number: int) -> list[list[int]]:
        """Return one window's batches."""


class LengthGroupedBatchSampler(WindowedBatchSampler):
    """Yields batches of ``batch_size`` samples of similar length, in random order.

    Every sample comes once an epoch; the epoch's last batch is the one that may not be full. The
    longest samples are as likely to come early as late.

    Args:
        lengths: Length of each sample; shape ``(samples,)``, integers of at least zero.
        batch_size: Samples a batch.
        seed: Chooses the order together with the epoch; the same on every rank.
        drop_last: Leave out as many samples, other ones each epoch, that all batches are full.
        window: Batches sorted together: more of them, less padding and less chance. None: 400, and
            at most half of all, so that a small dataset too gets other batches each epoch.
        shuffle: False: windows are cut from the dataset's order and their batches come longest
            first; for evaluation.

    Raises:
        TypeError, ValueError: A length, with its index, or another argument is not such a number.

    Example:
        >>> sampler = LengthGroupedBatchSampler([5, 1, 5, 1], 2, window=2)
        >>> sorted(sorted(batch) for batch in sampler)
        [[0, 2], [1, 3]]
    """

    def __init__(
        self,
        lengths: Any,
        batch_size: int,
        *,
        seed: int = 0,
        drop_last: bool = False,
        window: int | None = None,
        shuffle: bool = True,
    ) -> None:
        super().__init__(lengths, seed=seed, shuffle=shuffle)
        self.batch_size = natural("batch_size", batch_size, least=1)
        self.drop_last = bool(drop_last)
        batches = len(self)
        self.window = (
            min(WINDOW, max(1, -(-batches // 2)))
            if window is None
            else natural("window", window, least=1)
        )
        # Windows of about one size: a short last one would have more padding.
        windows = -(-batches // self.window)
        self._batch_ends = np.array(
            [(number + 1) * batches // windows for number in range(windows)], dtype=np.int64
        )
        self._ends = np.minimum(self._batch_ends * self.batch_size, self._samples())

    def __len__(self) -> int:
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def _samples(self) -> int:
        # The permutation is of all samples even if the last of them are left out.
        return len(self.lengths)

    def _find(self, epoch: int, position: int) -> tuple[int, int]:
        del epoch
        window = int(np.searchsorted(self._batch_ends, position, side="right"))
        return window, position - (int(self._batch_ends[window - 1]) if window else 0)

    def _batches(self, epoch: int, order: Permutation, number: int) -> list[list[int]]:
        samples = self._sorted_window(order, number)[0].tolist()
        size = self.batch_size
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        return self._shuffled(batches, epoch, number, last=len(batches[-1]) < size)


def checked_lengths(lengths: Any) -> Indices:
    """Return lengths as int64, shape ``(samples,)``.

    Raises:
        TypeError: They are no one-dimensional sequence of integers.
        ValueError: One is negative; its index is named.
    """
    given = np.asarray(lengths)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise TypeError(
            f"lengths must be a one-dimensional sequence of integers, one for each sample, but got "
            f"{type(lengths).__name__} of shape {given.shape} and dtype {given.dtype}; for example "
            f"[len(sample) for sample in dataset]"
        )
    checked = given.astype(np.int64)
    (negative,) = np.nonzero(checked < 0)
    if negative.size:
        raise ValueError(f"lengths[{negative[0]}] is {checked[negative[0]]}, which is negative")
    return checked
