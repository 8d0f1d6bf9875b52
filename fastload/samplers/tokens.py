"""Make batches of as many samples as a budget of padded tokens allows.

Runs in: consumer.
Takes: the length of every sample and the most tokens that a padded batch may have.
Gives: batches of indices; long samples come in small batches, short ones in large ones.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from fastload.samplers.epochs import natural
from fastload.samplers.lengths import WINDOW, Indices, WindowedBatchSampler
from fastload.samplers.permutation import Permutation


class TokenBudgetBatchSampler(WindowedBatchSampler):
    """Yields batches with ``longest * samples <= max_tokens``, of similar lengths, in random order.

    Every sample comes once an epoch. How many batches an epoch has depends on the order, so ``len``
    is that of the epoch chosen by ``set_epoch``; it takes one pass over the lengths, once an epoch.

    Args:
        lengths: Length of each sample; shape ``(samples,)``, integers of at least zero.
        max_tokens: The most tokens of a batch, padding included.
        seed: Chooses the order together with the epoch; the same on every rank.
        max_samples: The most samples of a batch; None: no limit.
        multiple_of: What lengths are padded to a multiple of.
        oversized: A sample that is longer than ``max_tokens`` by itself: "error", or "skip" to
            leave it out.
        window: Batches sorted together, about; more of them, less padding and less chance. None:
            400, and at most half of all.
        shuffle: False: windows are cut from the dataset's order and their batches come longest
            first; for evaluation.

    Raises:
        TypeError, ValueError: A length, with its index, or another argument is not such a number.
        ValueError: A sample is longer than ``max_tokens``.

    Example:
        >>> sampler = TokenBudgetBatchSampler([4, 1, 4, 1, 1], 8, window=8)
        >>> sorted(sorted(batch) for batch in sampler)
        [[0, 2], [1, 3, 4]]
    """

    def __init__(
        self,
        lengths: Any,
        max_tokens: int,
        *,
        seed: int = 0,
        max_samples: int | None = None,
        multiple_of: int = 1,
        oversized: Literal["error", "skip"] = "error",
        window: int | None = None,
        shuffle: bool = True,
    ) -> None:
        super().__init__(lengths, seed=seed, shuffle=shuffle)
        self.max_tokens = natural("max_tokens", max_tokens, least=1)
        self.multiple_of = natural("multiple_of", multiple_of, least=1)
        self.max_samples = (
            None if max_samples is None else natural("max_samples", max_samples, least=1)
        )
        if oversized not in {"error", "skip"}:
            raise ValueError(f"oversized must be 'error' or 'skip', but got {oversized!r}")
        self.oversized = oversized
        self.window = WINDOW if window is None else natural("window", window, least=1)
        # An empty sample counts as one token, so that a batch has an end.
        self.lengths = np.maximum(-(-self.lengths // multiple_of) * multiple_of, 1)
        self._kept = self._fitting()
        self._ends = self._window_ends(limited=window is None)
        self._counted: tuple[int, Indices] | None = None

    def __len__(self) -> int:
        ends = self._batch_ends(self.epoch)
        return int(ends[-1]) if ends.size else 0

    def _fitting(self) -> Indices | None:
        """Return the samples that fit the budget; None stands for all."""
        (too_long,) = np.nonzero(self.lengths > self.max_tokens)
        if not too_long.size:
            return None
        if self.oversized == "error":
            padded = f", padded to a multiple of {self.multiple_of}," * (self.multiple_of > 1)
            raise ValueError(
                f"sample {too_long[0]}{padded} has {self.lengths[too_long[0]]} tokens, more than "
                f"max_tokens={self.max_tokens}, as have {too_long.size - 1} others; raise "
                f"max_tokens, shorten them, or leave them out with oversized='skip'"
            )
        (kept,) = np.nonzero(self.lengths <= self.max_tokens)
        return kept

    def _window_ends(self, *, limited: bool) -> Indices:
        samples = self._samples()
        if not samples:
            return np.zeros(0, np.int64)
        kept = self.lengths if self._kept is None else self.lengths[self._kept]
        of_a_batch = min(self.max_tokens / float(kept.mean()), self.max_samples or samples)
        windows = max(round(samples / (self.window * of_a_batch)), 1)
        if limited and samples > of_a_batch:
            windows = max(windows, 2)
        return np.arange(1, windows + 1) * samples // windows

    def _samples(self) -> int:
        return len(self.lengths) if self._kept is None else len(self._kept)

    def _sample_at(self, places: Indices) -> Indices:
        return places if self._kept is None else self._kept[places]

    def _find(self, epoch: int, position: int) -> tuple[int, int]:
        ends = self._batch_ends(epoch)
        window = int(np.searchsorted(ends, position, side="right"))
        return window, position - (int(ends[window - 1]) if window else 0)

    def _batches(self, epoch: int, order: Permutation, number: int) -> list[list[int]]:
        samples, lengths = self._sorted_window(order, number)
        cuts, listed = self._cuts(lengths), samples.tolist()
        batches = [listed[start:stop] for start, stop in zip([0, *cuts], cuts, strict=False)]
        return self._shuffled(batches, epoch, number)

    def _cuts(self, lengths: Indices) -> list[int]:
        """Return where batches end among samples that are sorted, longest first."""
        longest, cuts, place = lengths.tolist(), [], 0
        most = self.max_samples or len(longest)
        while place < len(longest):
            place = min(place + min(self.max_tokens // longest[place], most), len(longest))
            cuts.append(place)
        return cuts

    def _batch_ends(self, epoch: int) -> Indices:
        """Return the number of batches up to the end of each window, kept for one epoch."""
        if self._counted is None or self._counted[0] != epoch:
            order = Permutation(self._samples(), self.seed, epoch, 0)
            counts = [
                len(self._cuts(self._sorted_window(order, number)[1]))
                for number in range(len(self._ends))
            ]
            self._counted = epoch, np.cumsum(np.array(counts, dtype=np.int64))
        return self._counted[1]
