"""Random histories of a run: whatever happens to it, the stream is that of one process."""

from __future__ import annotations

import itertools
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, RandomSampler

import fastload

from .datasets import EVERYTHING, Drawing
from .test_iterable import Items, Stream
from .test_stream import Killing

LENGTH = 37
EPOCHS = 2


class Leg(NamedTuple):
    """What a run is until it is interrupted: its size, and how many steps it takes."""

    ranks: int
    batch_size: int
    workers: int
    method: str
    steps: int
    is_killed: bool


def make_map(folder):
    return Killing(LENGTH, folder / "killed")


KINDS = {
    "in order": (make_map, lambda _: {}),
    "shuffled": (make_map, lambda _: {"shuffle": True}),
    "random sampler": (make_map, lambda dataset: {"sampler": RandomSampler(dataset)}),
    "our sampler": (make_map, lambda dataset: {"sampler": fastload.ShuffleSampler(dataset, 5)}),
    "batch sampler": (
        make_map,
        lambda dataset: {"batch_sampler": BatchSampler(RandomSampler(dataset), 3, drop_last=False)},
    ),
    "stream": (lambda _: Stream(LENGTH), lambda _: {}),
    "items": (lambda _: Items(LENGTH), lambda _: {}),
}


@cache
def reference(kind):
    """The samples of each epoch, of one process that loads one sample at a time."""
    make, order = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "killed").touch()  # nothing is killed here
        dataset = make(Path(folder))
        options = {"batch_size": 1, **order(dataset)}
        if "batch_sampler" in options:
            del options["batch_size"]
        loader = fastload.DataLoader(dataset, seed=7, **options)
        return [torch.cat(list(loader)) for _ in range(EPOCHS)]


def take(kind, folder, leg, state):
    """One leg on all ranks; its samples in the order of the stream, and the state after it."""
    make, order = KINDS[kind]
    parts, after = [], None
    for rank in range(leg.ranks):
        dataset = make(folder)
        options = {"batch_size": leg.batch_size, **order(dataset)}
        if "batch_sampler" in options:
            del options["batch_size"]
        with fastload.DataLoader(
            dataset,
            seed=7,
            num_replicas=leg.ranks,
            rank=rank,
            even="none",
            num_workers=leg.workers,
            multiprocessing_context=leg.method if leg.workers else None,
            max_worker_restarts=3 if leg.workers else 0,
            **options,
        ) as loader:
            if state is not None:
                loader.load_state_dict(state)
            parts.append(list(itertools.islice(loader, leg.steps)))
            after = after or json.loads(json.dumps(loader.state_dict()))
    batches = [batch for step in itertools.zip_longest(*parts) for batch in step]
    return [batch for batch in batches if batch is not None], after


LEGS = st.builds(
    Leg,
    ranks=st.integers(1, 3),
    batch_size=st.integers(1, 9),
    workers=st.sampled_from([0, 0, 1, 2, 5]),
    method=st.sampled_from(["fork", "fork", "fork", "forkserver"]),
    steps=st.integers(0, 6),
    is_killed=st.booleans(),
)


def check_history(kind, legs):
    """Run legs over and over until two epochs are over, and compare them byte for byte."""
    found: list[list[torch.Tensor]] = [[] for _ in range(EPOCHS)]
    state, epoch = None, 0
    with tempfile.TemporaryDirectory() as folder:
        for number, leg in enumerate(itertools.cycle(legs)):
            file = Path(folder) / "killed"
            if leg.is_killed and leg.workers:
                file.unlink(missing_ok=True)
            else:
                file.touch()
            steps = leg.steps + (number >= len(legs)) * 4  # or it might never end
            batches, state = take(kind, Path(folder), leg._replace(steps=steps), state)
            found[epoch] += batches
            epoch = state["epoch"]
            if epoch == EPOCHS:
                break
    for got, expected in zip(found, reference(kind), strict=True):
        assert torch.equal(torch.cat(got), expected)


QUIET = "ignore:.*(one worker reads|started again|worker processes in total).*"


@pytest.mark.filterwarnings(QUIET)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(sorted(KINDS)), legs=st.lists(LEGS, min_size=1, max_size=4))
def test_any_history_gives_the_stream_of_one_process(kind, legs):
    """Ranks, workers, batch sizes, start methods, deaths and interruptions change nothing."""
    check_history(kind, legs)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings(QUIET)
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(sorted(KINDS)), legs=st.lists(LEGS, min_size=1, max_size=4))
def test_five_hundred_histories(kind, legs):
    """The same, many times."""
    check_history(kind, legs)


def test_histories_draw_from_everything():
    """The datasets above draw from global generators; streams from their own ones too."""
    assert set(Drawing(1).kinds) < set(EVERYTHING) == set(Stream(1).source.kinds)
