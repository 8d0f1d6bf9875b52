"""The runs of a pool: how each began, and where each worker stands in it.

Runs in: consumer.
Owns: what a worker must be told that is started while a run goes on.
"""

from __future__ import annotations

import pickle
import weakref
from typing import Any

from fastload._loading.dataset_state import DatasetState, has_state
from fastload._system.interruptions import in_c
from fastload._wire.messages import Begin, SeededBegin
from fastload.datasets.ranks_and_workers import epoch_of


class Runs:
    """The runs that somebody still wants.

    Attributes:
        begun: By number: how the run began.
        newest: The highest number of a run; -1 before the first.
        dropped: Numbers of runs that nobody refers to any more, and that are to be cancelled.
    """

    def __init__(self, dataset: Any) -> None:
        self.begun: dict[int, Begin] = {}
        self.newest = -1
        self.dropped: list[int] = []
        self._dataset = dataset
        self._ends: dict[int, weakref.ref[object]] = {}
        self._states: dict[tuple[int, int], bytes] = {}
        self._ended: set[tuple[int, int]] = set()

    def begin(
        self,
        run: object,
        shared_seed: int | None,
        dataset_state: DatasetState | None,
        seeded: SeededBegin | None,
    ) -> Begin:
        """Number a run, which ends when nobody refers to ``run`` any more."""
        pickled = None if dataset_state is None else pickle.dumps(dataset_state)
        self.newest += 1
        number = self.newest
        begin = Begin(number, shared_seed, pickled, epoch_of(self._dataset), seeded)
        self.begun[number] = begin
        self._ends[number] = weakref.ref(run, in_c(self.dropped.append, (number,)))
        return begin

    def forget(self, number: int, workers: int) -> None:
        """A run is cancelled."""
        del self.begun[number], self._ends[number]
        for worker_id in range(workers):
            self._states.pop((number, worker_id), None)
            self._ended.discard((number, worker_id))

    def note_state(self, number: int, worker_id: int, state: bytes) -> None:
        """A worker has said where its dataset stands behind a batch."""
        if number in self.begun:
            self._states[number, worker_id] = state

    def note_end(self, number: int, worker_id: int) -> None:
        """A worker has come to the end of its part of a stream."""
        if number in self.begun:
            self._ended.add((number, worker_id))

    def of_restarted(self, worker_id: int) -> list[int]:
        """The runs that a worker in the place of a dead one has to go on with, in their order."""
        alive = set(self.begun).difference(self.dropped)
        return sorted(run for run in alive if (run, worker_id) not in self._ended)

    def begin_for(self, number: int, worker_id: int) -> Begin:
        """What a new worker is told of a run: to go on behind the last batch, or where it began."""
        begin = self.begun[number]
        state = self._states.get((number, worker_id), begin.dataset_state)
        return begin._replace(dataset_state=state)

    def can_resume(self, runs: list[int], worker_id: int) -> bool:
        """Whether a new worker can go on with a stream where a dead one was.

        One dataset can't be in two states. One without a state begins anew, which would repeat
        what was delivered; whether its iterator has a state is known from the first batch on. A
        seeded stream is read again up to the first task: what it yields follows from the seed.
        """
        if all(self.begun[run].seeded is not None for run in runs):
            return True
        if len(runs) > 1:
            return False
        return has_state(self._dataset) or all(
            self.begin_for(run, worker_id).dataset_state is not None for run in runs
        )
