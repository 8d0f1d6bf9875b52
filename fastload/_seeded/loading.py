"""Load samples while generators hold the states that follow from each sample's position.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the indices of a batch, the positions of its samples, and the fetcher that loads them.
Gives: the batch that any process loads for these positions.

Only generators that are drawn from are set. Whether one is, is seen by comparing its state before
and after. A batch in which one was drawn from for the first time is thrown away and loaded again,
with that generator set; what the first load raised is forgotten with it. From then on it is always
set. So a dataset that draws nothing pays for two looks at three generators, about 4 µs a batch.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

from fastload._loading.concurrent import Concurrency
from fastload._loading.dataset_state import StateSource
from fastload._loading.fetch import Fetcher, GatherFetcher, make_fetcher
from fastload._loading.on_error import Tolerance
from fastload._memory.write import Place, SlotPlace
from fastload._seeded.generators import GLOBAL, GlobalGenerator
from fastload._seeded.owned import OwnedGenerator, find_generators
from fastload._seeded.seeds import COLLATE, SAMPLE, EpochDraws
from fastload._system.interruptions import is_from_outside
from fastload._wire.indices import PositionedIndices
from fastload.collate.inplace import Collate, collate_in_place
from fastload.datasets.gather import gatherer


class DrawnGenerators:
    """The generators that are set in this process, because they are drawn from.

    Args:
        dataset: Generators that it owns are set in front of each sample.
        collate_fn: Generators that it owns are set in front of each call.
        everything: Set all global generators from the start, so that no batch is loaded twice.
        shared: The global generators that may be set here at all: none in a thread, which shares
            them with the program.
    """

    def __init__(
        self,
        dataset: Any,
        collate_fn: Any,
        *,
        everything: bool = False,
        shared: tuple[GlobalGenerator, ...] = GLOBAL,
    ) -> None:
        self.shared = shared
        self.owned: dict[int, list[OwnedGenerator]] = {
            SAMPLE: find_generators(dataset, "dataset"),
            COLLATE: find_generators(collate_fn, "collate_fn"),
        }
        self._set: dict[int, list[GlobalGenerator]] = {
            purpose: list(shared) if everything else [] for purpose in (SAMPLE, COLLATE)
        }

    def draws_anything(self, purpose: int) -> bool:
        """Whether any generator is set for this purpose."""
        return bool(self._set[purpose] or self.owned[purpose])

    def is_set(self, purpose: int, generator: GlobalGenerator) -> bool:
        """Whether a global generator is set for this purpose."""
        return generator in self._set[purpose]

    def add(self, purpose: int, generators: list[GlobalGenerator]) -> None:
        """Set these global generators too from now on.

        What samples draw from is set for collate too: a sample may leave a normal variate behind,
        which collate could draw without being noticed.
        """
        for each in generators:
            for also in {purpose, COLLATE}:
                if each not in self._set[also]:
                    self._set[also].append(each)

    def seed(self, draws: EpochDraws, purpose: int, position: int) -> None:
        """Set the generators of one purpose for a position."""
        draws.seed(self._set[purpose], purpose, position)
        draws.seed(self.owned[purpose], purpose, position)


Looks = dict[GlobalGenerator, object]
"""The states of global generators at one moment."""


class SampleSeeding:
    """Says where in a batch the loading is, and sets the generators there.

    The dataset is read through ``SeededDataset``, which calls ``before_sample``; the fetcher calls
    ``before_collate`` between fetching and collating.

    Usually one look before and one after a batch show that nothing was drawn. Where something was,
    the batch is loaded again with a look between fetching and collating too: that tells which of
    them draws. A generator that only collate draws from is looked at in between each time.

    A look does not see a normal variate that a generator has cached, and so not that it is drawn
    either. Therefore no generator that is looked at may have one: those that were drawn from and
    are not set are cleared first.
    """

    def __init__(self, draws: EpochDraws, drawn: DrawnGenerators) -> None:
        self.drawn = drawn
        self._draws = draws
        self._positions: Sequence[int] = ()
        self._loaded = 0
        self._probes = False
        self._before: Looks = {}
        self._between: Looks | None = None

    def begin(self, positions: Sequence[int]) -> None:
        """A batch with samples at these positions is about to be loaded."""
        self._positions = positions
        self._loaded = 0
        self._before = {}
        self._between = None
        for each in self.drawn.shared:
            if not self.drawn.is_set(SAMPLE, each):
                if self.drawn.is_set(COLLATE, each):
                    each.seed(0)
                self._before[each] = each.look()

    def before_sample(self) -> None:
        """The next sample of the batch is about to be loaded."""
        self.drawn.seed(self._draws, SAMPLE, self._positions[self._loaded])
        self._loaded += 1

    def before_collate(self) -> None:
        """The samples are loaded and about to be collated.

        Raises:
            FirstDrawError: One of them drew from a generator that was not set.
        """
        drawn = self.drawn
        looked_at = [each for each in self._before if self._probes or drawn.is_set(COLLATE, each)]
        if looked_at and self._note(SAMPLE, {each: self._before[each] for each in looked_at}):
            raise FirstDrawError
        if drawn.draws_anything(COLLATE):
            drawn.seed(self._draws, COLLATE, self._positions[0])
        self._between = {each: each.look() for each in looked_at}

    def found_draws(self) -> bool:
        """Whether a generator that was not set was drawn from, so that the batch is of no use."""
        if self._between is None:  # an exception came before the samples were all there
            return self._note(SAMPLE, self._before)
        if self._note(COLLATE, self._between):
            return True
        rest = {each: look for each, look in self._before.items() if each not in self._between}
        changed = [each for each, look in rest.items() if each.look() != look]
        for each in changed:
            each.seed(0)
        self._probes = bool(changed)
        return self._probes

    def _note(self, purpose: int, before: Looks) -> bool:
        """Set from now on what was drawn from since an earlier look; tell if there is any."""
        new = [
            each
            for each, look in before.items()
            if not self.drawn.is_set(purpose, each) and each.look() != look
        ]
        self.drawn.add(purpose, new)
        return bool(new)


class CollateSeeding(SampleSeeding):
    """Sets generators for collate alone: samples load at a time, and draw nothing.

    So the batch can be looked at where its samples are there, always.
    """

    def begin(self, positions: Sequence[int]) -> None:
        """A batch with samples at these positions is about to be loaded."""
        self._positions = positions
        self._between = None

    def before_collate(self) -> None:
        """The samples are loaded and about to be collated."""
        self.drawn.seed(self._draws, COLLATE, self._positions[0])
        self._between = {
            each: each.look() for each in GLOBAL if not self.drawn.is_set(COLLATE, each)
        }

    def found_draws(self) -> bool:
        """Whether collate drew from a generator that was not set, so the batch is of no use."""
        return self._between is not None and self._note(COLLATE, self._between)


class FirstDrawError(Exception):
    """Samples were loaded with a generator that should have been set; never seen by users."""


class SeededDataset:
    """A map-style dataset that is read with generators set for each sample.

    It has no ``__getitems__``, which loads all samples of a batch in one call: no generator could
    be set between them.
    """

    def __init__(self, dataset: Any, seeding: SampleSeeding) -> None:
        self._dataset = dataset
        self._seeding = seeding

    def __getitem__(self, index: Any) -> Any:
        self._seeding.before_sample()
        return self._dataset[index]


class SeededFetcher:
    """Loads the batches of one epoch; see the module's docstring.

    Args:
        plain: Reads the dataset itself: used for as long as no sample draws.
        seeded: Reads a ``SeededDataset``. Both call ``before_collate`` of ``seeding``.
        seeding: Sets the generators.
        tolerance: Of the fetchers; None if errors are raised.
        program: Keeps the generators of the program; None in a worker.
    """

    source: StateSource | None = None  # what was delivered is known by its position

    def __init__(
        self,
        plain: Fetcher,
        seeded: Fetcher,
        seeding: SampleSeeding,
        tolerance: Tolerance | None = None,
        program: ProgramGenerators | None = None,
    ) -> None:
        self.watch = plain.watch
        self._plain = plain
        self._seeded = seeded
        self._seeding = seeding
        self._tolerance = tolerance
        self._program: contextlib.AbstractContextManager[object] = (
            program or contextlib.nullcontext()
        )

    def fetch(self, indices: PositionedIndices, place: Place) -> Any:
        """Load and collate one batch: as ``Fetcher.fetch``, for samples at given positions."""
        with self._program:
            while True:
                self._seeding.begin(indices.positions)
                draws = self._seeding.drawn.draws_anything(SAMPLE)
                fetcher = self._seeded if draws else self._plain
                self.watch = fetcher.watch
                try:
                    batch = fetcher.fetch(indices.indices, place)
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
    program: ProgramGenerators | None = None,
    concurrency: Concurrency | None = None,
) -> Fetcher:
    """A fetcher of one epoch of a map-style dataset, for ``PositionedIndices``.

    Arguments are those of ``make_fetcher``; ``program`` keeps the generators of the process, if it
    is the program's own. Where batches are gathered from memory nobody draws, and nothing is set.
    """
    kind = SampleSeeding if concurrency is None else CollateSeeding
    seeding = kind(draws, drawn)
    make = functools.partial(
        make_fetcher,
        dataset,
        iterable=False,
        batched=batched,
        collate=collate,
        drop_last=False,
        tolerance=tolerance,
        before_collate=seeding.before_collate,
        gathers=False,
    )
    if concurrency is None:
        plain = make()
        seeded = make(read_through=lambda source: SeededDataset(source, seeding))
    else:
        plain = seeded = make(concurrency=concurrency)
    fetcher = SeededFetcher(plain, seeded, seeding, tolerance, program)
    gather = None
    if batched and collate is collate_in_place:
        gather = gatherer(dataset, is_live=is_live, is_concurrent=concurrency is not None)
    if gather is None:
        return fetcher
    return GatherFetcher(lambda indices, place: gather(indices.indices, place), fetcher)


def make_collating_fetcher(
    samples: Any, draws: EpochDraws, drawn: DrawnGenerators, collate: Collate
) -> Fetcher:
    """A fetcher of batches whose samples are loaded already; collate draws as it always does.

    Args:
        samples: Gives all samples of the batch, whatever indices it is asked for.
        draws: Seeds of the epoch.
        drawn: The generators that are set in this process.
        collate: Makes a batch of samples.
    """
    seeding = SampleSeeding(draws, drawn)
    fetcher = make_fetcher(
        samples,
        iterable=False,
        batched=True,
        collate=collate,
        drop_last=False,
        before_collate=seeding.before_collate,
        gathers=False,
    )
    return SeededFetcher(fetcher, fetcher, seeding)


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
