"""The state that a dataset has of its own: asked for behind a batch, and given back to it.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a dataset with ``state_dict`` and ``load_state_dict``, or a stream whose iterator has them.
Gives: its state behind the newest batch; and the iterator of a stream that goes on from a state.

The order is that of torchdata's StatefulDataLoader: the state of a dataset is loaded before
``iter(dataset)`` is called, the state of its iterator afterwards. A stream that is its own iterator
counts as the iterator: ``iter`` would make it forget what was loaded before.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any, NamedTuple


class DatasetState(NamedTuple):
    """What an epoch needs to know of its dataset in order to go on.

    Attributes:
        dataset: What the dataset's ``state_dict`` returned; None if it has none.
        iterator: What the ``state_dict`` of the stream's iterator returned; likewise.
        has_ended: The stream had no more samples, although its last batch was only just made.
        is_over: The epoch was over, so it is the next one that begins from this state.
    """

    dataset: Any = None
    iterator: Any = None
    has_ended: bool = False
    is_over: bool = False

    @property
    def is_known(self) -> bool:
        """Whether there is anything to load."""
        return self.dataset is not None or self.iterator is not None


class StateSource:
    """Where the state of a dataset can be asked for while an epoch reads the dataset.

    It refers to the iterator of a stream only if that has a state. So a generator is closed as soon
    as nobody iterates any more.
    """

    def __init__(self, dataset: Any, samples: Iterator[Any] | None = None) -> None:
        self.has_ended = False
        self.is_stream = samples is not None
        self._iterator: Any = samples if has_state(samples) else None
        self._dataset: Any = dataset if has_state(dataset) and samples is not dataset else None

    def state(self) -> DatasetState:
        """The state as it is now; it may refer to values that the dataset goes on to change."""
        return DatasetState(
            None if self._dataset is None else self._dataset.state_dict(),
            None if self._iterator is None else self._iterator.state_dict(),
            self.has_ended,
        )

    def pickled(self) -> bytes | None:
        """The state for another process; None if the dataset has none."""
        if self._dataset is None and self._iterator is None:
            return None
        return pickle.dumps(self.state())


def has_state(holder: Any) -> bool:
    """Whether a dataset, or the iterator of one, can tell its state and go on from it."""
    return hasattr(holder, "state_dict") and hasattr(holder, "load_state_dict")


def load_into_dataset(dataset: Any, state: DatasetState | None) -> None:
    """Load the state of a map-style dataset, if there is one."""
    if state is not None and state.dataset is not None:
        _load(dataset, state.dataset)


def open_stream(dataset: Any, state: DatasetState | None) -> Iterator[Any]:
    """Begin to iterate over a stream, from its beginning or from where a state says.

    Raises:
        ValueError: There is a state, but nothing here that could load it.
    """
    load_into_dataset(dataset, state)
    samples: Iterator[Any] = iter(dataset)
    if state is None or state.iterator is None:
        return samples
    if not state.is_over:
        _load(samples, state.iterator)
    elif samples is dataset:  # which keeps more than a place: it may count its epochs
        _load(samples, state.iterator)
        samples = iter(dataset)
    return samples


def _load(holder: Any, state: Any) -> None:
    if not has_state(holder):
        raise ValueError(
            f"the loaded state holds one of the dataset or of its iterator, but "
            f"{type(holder).__name__} has no load_state_dict; use the dataset that the state was "
            f"saved with"
        )
    holder.load_state_dict(copy.deepcopy(state))  # which the dataset may keep, and change
