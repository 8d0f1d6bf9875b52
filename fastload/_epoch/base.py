"""What the iterators of all ways do alike: step, count, and go on in the middle of an epoch.

Runs in: consumer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastload._epoch.draws import Draws
from fastload._epoch.loader import Loader
from fastload._epoch.resume import EpochPosition, Remainder
from fastload._loading.dataset_state import StateSource
from fastload._memory.fake_tensors import DrawnReal, real_tensors
from fastload._torch_private import BaseIterator, fake_mode, profiler_enabled
from fastload._wire.exceptions import unpack
from fastload._wire.messages import Skip
from fastload.errors import TooManyErrors, show
from fastload.samplers.batches import compact
from fastload.stats.counters import Counters
from fastload.stats.snapshot import SkippedSample


class PendingBatch:
    """A batch on its way out of ``__next__``, which an exception from outside must not lose.

    An iterator that lets others load shares this object with them: so a batch is kept until it has
    left the outermost.

    Attributes:
        batch: The thread that asked, and its batch; None once it has left.
        error: What is to be raised in place of a batch; None once it was.
    """

    __slots__ = ("batch", "error")

    def __init__(self) -> None:
        self.batch: tuple[int, Any] | None = None
        self.error: BaseException | None = None


class EpochIterator:
    """Mixin that stands before torch's iterator class in the MRO and overrides ``__next__``.

    It counts the position in the epoch and the samples that were left out.
    """

    position: EpochPosition
    _index_sampler: Any
    _sampler_iter: Any
    _num_yielded: int
    _IterableDataset_len_called: int | None
    _shared_seed: int | None
    _pipes_seed: int | None
    _counters: Counters
    _max_errors: int
    drawn: dict[str, Any]
    source: StateSource | None = None
    _pending: PendingBatch
    _draws: Draws

    def __next__(self) -> Any:
        # torch's own also opens a profiler event, and warns of a stream longer than it said.
        if self._IterableDataset_len_called is None and not profiler_enabled():
            batch = self._next_data()
            self._num_yielded += 1
        else:
            batch = super().__next__()  # type: ignore[misc]  # torch's class comes after this one
        # Python runs signal handlers at calls and jumps: nothing can come between these two.
        self._pending.batch = None
        return batch

    def _next_data(self) -> Any:
        raise NotImplementedError

    def _reset(self, loader: Loader, first_iter: bool = False) -> None:  # noqa: ARG002
        """Begin the loader's next epoch in this object.

        ``iter(loader)`` does not call it. Torch's does for kept workers, and so do classes that
        override ``__iter__`` or wrap an iterator as torch's needs it.
        """
        loader._begin_again(self)

    def _draw_as_with_workers(self, loader: Loader, before: Any) -> None:
        """Draw what torch's iterator draws as an epoch begins.

        Args:
            loader: Whose epoch it is.
            before: The iterator of the epoch before, if its workers would be kept: what was drawn
                when they started, the base seed, is not drawn again.
        """
        if before is None:
            with real_tensors():
                BaseIterator.__init__(self, loader)
            self.drawn = dict(vars(self))
        else:
            self.__dict__.update(before.drawn, drawn=before.drawn)
        self._reset_as_with_workers(loader, is_new=before is None)

    def _reset_as_with_workers(self, loader: Loader, *, is_new: bool) -> None:
        """Draw what an epoch draws; new workers of torch's get the seed of before, however."""
        before = self._shared_seed
        with real_tensors():
            BaseIterator._reset(self, loader)
        self._pipes_seed = before if is_new else self._shared_seed

    def _count_skipped(self, skipped: tuple[Skip, ...]) -> None:
        """Count samples that could not be loaded.

        Raises:
            TooManyErrors: They are more than the loader allows in an epoch.
        """
        errors = [unpack(skip.error, f"dataset index {show(skip.index)}") for skip in skipped]
        number = self._counters.skipped(
            SkippedSample(skip.index, f"{type(error).__name__}: {error}")
            for skip, error in zip(skipped, errors, strict=True)
        )
        if errors and number > self._max_errors:
            raise TooManyErrors(
                f"{number} samples of this epoch could not be loaded, more than "
                f"max_errors={self._max_errors}; the last is dataset index "
                f"{show(skipped[-1].index)}. loader.stats().skipped names them."
            ) from errors[-1]

    def _start_sampler(self, loader: Loader) -> None:
        """Choose how the epoch's order is drawn; leave out what was delivered of it before."""
        rest: Remainder | None = loader._live.rest
        if rest is not None:
            self._sampler_iter = rest.draw(loader)
            self._num_yielded = rest.delivered
        elif (batches := compact(self._index_sampler)) is not None:
            self._sampler_iter = batches
        self._begin_drawing(self._sampler_iter)

    def _begin_drawing(self, indices: Iterator[Any]) -> None:
        """Draw the epoch's batches from these indices."""
        self._sampler_iter = indices if fake_mode() is None else DrawnReal(indices)
        self._draws = Draws(self._sampler_iter)
        self._pending = PendingBatch()
