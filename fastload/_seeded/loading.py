"""Load samples while generators hold the states that follow from each sample's position.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the indices of a batch, the positions of its samples, and the fetcher that loads them.
Gives: the batch that any process loads for these positions.

Only generators that are drawn from are set. Whether one is, is seen by comparing its state before
and after. A batch in which one was drawn from for the first time is thrown away and loaded again,
with that generator set; what the first load raised is forgotten with it. From then on it is always
set. So a dataset that draws nothing pays for nine looks a batch, about 6 µs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastload._loading.dataset_state import StateSource
from fastload._loading.fetch import Fetcher, make_fetcher
from fastload._loading.on_error import Tolerance
from fastload._memory.write import Place, SlotPlace
from fastload._seeded.generators import GLOBAL, GlobalGenerator
from fastload._seeded.own_streams import OwnBatchFetcher, makes_batches
from fastload._seeded.owned import OwnedGenerator, find_generators
from fastload._seeded.seeds import COLLATE, SAMPLE, EpochDraws
from fastload._system.interruptions import is_from_outside
from fastload._wire.indices import PositionedIndices
from fastload._wire.messages import SeededBegin
from fastload.collate.inplace import Collate


class DrawnGenerators:
    """The generators that are set in this process, because they are drawn from.

    Args:
        dataset: Generators that it owns are set in front of each sample.
        collate_fn: Generators that it owns are set in front of each call.
        everything: Set all global generators from the start, so that no batch is loaded twice.
    """

    def __init__(self, dataset: Any, collate_fn: Any, *, everything: bool = False) -> None:
        self.owned: dict[int, list[OwnedGenerator]] = {
            SAMPLE: find_generators(dataset, "dataset"),
            COLLATE: find_generators(collate_fn, "collate_fn"),
        }
        self._set: dict[int, list[GlobalGenerator]] = {
            purpose: list(GLOBAL) if everything else [] for purpose in (SAMPLE, COLLATE)
        }
        self._unset = {purpose: [] if everything else list(GLOBAL) for purpose in (SAMPLE, COLLATE)}

    def draws_anything(self, purpose: int) -> bool:
        """Whether any generator is set for this purpose."""
        return bool(self._set[purpose] or self.owned[purpose])

    def seed(self, draws: EpochDraws, purpose: int, position: int) -> None:
        """Set the generators of one purpose for a position."""
        for each in self._set[purpose]:
            each.seed(draws.seed_of(purpose, each.number, position))
        for owned in self.owned[purpose]:
            owned.seed(draws.seed_of(purpose, owned.number, position))

    def look(self, purpose: int) -> list[object]:
        """The states of the generators that are not set for this purpose."""
        return [each.look() for each in self._unset[purpose]]

    def note_draws(self, purpose: int, before: Sequence[object]) -> bool:
        """Add generators that were drawn from since an earlier look; tell if there are any."""
        unset = self._unset[purpose]
        new = [each for each, state in zip(unset, before, strict=True) if each.look() != state]
        self._set[purpose] += new
        self._unset[purpose] = [each for each in unset if each not in new]
        return bool(new)


class SampleSeeding:
    """Says where in a batch the loading is, and sets the generators there.

    The dataset is read through ``SeededDataset``, which calls ``before_sample``; the fetcher calls
    ``before_collate`` between fetching and collating.
    """

    def __init__(self, draws: EpochDraws, drawn: DrawnGenerators) -> None:
        self.drawn = drawn
        self._draws = draws
        self._positions: Sequence[int] = ()
        self._loaded = 0
        self._purpose = SAMPLE
        self._before: list[object] = []

    def begin(self, positions: Sequence[int]) -> None:
        """A batch with samples at these positions is about to be loaded."""
        self._positions = positions
        self._loaded = 0
        self._purpose = SAMPLE
        self._before = self.drawn.look(SAMPLE)

    def before_sample(self) -> None:
        """The next sample of the batch is about to be loaded."""
        self.drawn.seed(self._draws, SAMPLE, self._positions[self._loaded])
        self._loaded += 1

    def before_collate(self) -> None:
        """The samples are loaded and about to be collated.

        Raises:
            FirstDrawError: One of them drew from a generator that was not set.
        """
        if self.found_draws():
            raise FirstDrawError
        self._purpose = COLLATE
        self.drawn.seed(self._draws, COLLATE, self._positions[0])
        self._before = self.drawn.look(COLLATE)

    def found_draws(self) -> bool:
        """Whether the newest step of this batch drew from a generator that was not set."""
        return self.drawn.note_draws(self._purpose, self._before)


class FirstDrawError(Exception):
    """Samples were loaded with a generator that should have been set; never seen by users."""


class SeededDataset:
    """A map-style dataset that is read with generators set for each sample.

    ``__getitems__``, if the dataset has it, loads all samples of a batch in one call, where no
    generator can be set between them. So once the dataset is seen to draw, it is not used.
    """

    def __init__(self, dataset: Any, seeding: SampleSeeding) -> None:
        self._dataset = dataset
        self._seeding = seeding
        self._loads_many = bool(getattr(dataset, "__getitems__", None))

    def __getitem__(self, index: Any) -> Any:
        self._seeding.before_sample()
        return self._dataset[index]

    @property
    def __getitems__(self) -> Any:
        if not self._loads_many or self._seeding.drawn.draws_anything(SAMPLE):
            return None
        return self._dataset.__getitems__


class SeededFetcher:
    """Loads the batches of one epoch; see the module's docstring.

    Args:
        fetcher: Reads a ``SeededDataset`` and calls ``before_collate``, both with ``seeding``.
        seeding: Sets the generators.
        tolerance: Of the fetcher; None if errors are raised.
    """

    def __init__(
        self, fetcher: Fetcher, seeding: SampleSeeding, tolerance: Tolerance | None = None
    ) -> None:
        self.source: StateSource | None = None  # what is delivered again is read again
        self.watch = fetcher.watch
        self._fetcher = fetcher
        self._seeding = seeding
        self._tolerance = tolerance

    def fetch(self, indices: PositionedIndices, place: Place) -> Any:
        """Load and collate one batch: as ``Fetcher.fetch``, for samples at given positions."""
        while True:
            self._seeding.begin(indices.positions)
            try:
                batch = self._fetcher.fetch(indices.indices, place)
            except FirstDrawError:
                pass
            except Exception as error:
                if is_from_outside(error) or not self._seeding.found_draws():
                    raise
            else:
                if not self._seeding.found_draws():
                    return batch
            self._forget(place)

    def _forget(self, place: Place) -> None:
        """Throw away what a load has left that is done again."""
        if isinstance(place, SlotPlace):
            place.empty()
        if self._tolerance is not None:
            self._tolerance.take_skipped()


def make_seeded_fetcher(
    dataset: Any,
    draws: EpochDraws,
    drawn: DrawnGenerators,
    *,
    batched: bool,
    collate: Collate,
    tolerance: Tolerance | None = None,
    is_live: bool = False,
) -> SeededFetcher:
    """A fetcher of one epoch of a map-style dataset; arguments as of ``make_fetcher``."""
    seeding = SampleSeeding(draws, drawn)
    fetcher = make_fetcher(
        dataset,
        iterable=False,
        batched=batched,
        collate=collate,
        drop_last=False,
        tolerance=tolerance,
        is_live=is_live,
        read_through=lambda source: SeededDataset(source, seeding),
        before_collate=seeding.before_collate,
    )
    return SeededFetcher(fetcher, seeding, tolerance)


def make_own_fetcher(
    stream: Any,
    begin: SeededBegin,
    drawn: DrawnGenerators,
    *,
    batched: bool,
    collate: Collate,
    collate_fn: Any,
    tolerance: Tolerance | None = None,
) -> Fetcher:
    """A fetcher of one epoch of a stream of ours, which is read by position."""
    rows, draws = stream.seeded_rows(begin.epoch), EpochDraws(begin.seed, begin.epoch)
    if makes_batches(stream):
        return OwnBatchFetcher(rows, draws, collate, collate_fn)
    return make_seeded_fetcher(
        rows, draws, drawn, batched=batched, collate=collate, tolerance=tolerance
    )


class ProgramGenerators:
    """Keeps the program's generators as they are while batches are loaded in its own process.

    NumPy's whole state takes 24 µs to save. It is saved anew only where it may have changed: its
    words say so, except while a normal variate is cached, which may be drawn without changing them.
    """

    def __init__(self, drawn: DrawnGenerators) -> None:
        self._owned = [owned for each in drawn.owned.values() for owned in each]
        self._saved: dict[int, tuple[object, Any]] = {}
        self._states: list[Any] = []

    def __enter__(self) -> None:
        for each in GLOBAL:
            look = each.look()
            before = self._saved.get(each.number)
            if before is None or before[0] != look or each.has_cached_normal(before[1]):
                state = each.save()
                self._saved[each.number] = look, state
                if each.has_cached_normal(state):
                    each.seed(0)  # or a sample could draw that variate without being noticed
        self._states = [owned.save() for owned in self._owned]

    def __exit__(self, *_: object) -> None:
        for each in GLOBAL:
            look, state = self._saved[each.number]
            if each.look() != look or each.has_cached_normal(state):
                each.restore(state)
        for owned, state in zip(self._owned, self._states, strict=True):
            owned.restore(state)
