"""Resuming a seeded stream: on any ranks, workers and batch size, as often as one likes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastload
from tests.rounds import rounds

from .datasets import EVERYTHING, Drawing, joined

LENGTH = 61
ROOT = Path(__file__).parents[2]


def loader(rank=0, ranks=1, batch_size=4, workers=0, **options):
    """A loader of the stream that all tests here take."""
    return fastload.DataLoader(
        Drawing(LENGTH, EVERYTHING),
        batch_size=batch_size,
        shuffle=True,
        seed=7,
        num_replicas=ranks,
        rank=rank,
        num_workers=workers,
        **{"even": "none", **options},
    )


@pytest.fixture(scope="module")
def stream():
    """The stream of three epochs, of one process without workers."""
    return joined(Drawing(LENGTH, EVERYTHING), epochs=3, batch_size=4, shuffle=True)


def take(steps, state, *, ranks=1, **options):
    """Take steps on all ranks from a state on; the samples in order, and the ranks' states."""
    parts, states = [], []
    for rank in range(ranks):
        with loader(rank, ranks, **options) as one:
            if state is not None:
                one.load_state_dict(state)
            parts.append(list(itertools.islice(one, steps)))
            states.append(one.state_dict())
    batches = [batch for step in itertools.zip_longest(*parts) for batch in step]
    return [batch for batch in batches if batch is not None], states


@pytest.mark.parametrize(
    "settings",
    [
        [{}, {"ranks": 2, "batch_size": 3}, {"workers": 2, "batch_size": 5}, {"ranks": 3}],
        [{"ranks": 2, "workers": 1}, {"batch_size": 7}, {"ranks": 4, "batch_size": 2}],
    ],
    ids=["more and fewer", "fewer and more"],
)
def test_a_stream_goes_on_with_other_ranks_workers_and_batches(stream, settings):
    """Two steps at a time, each time elsewhere: no sample twice or never, the same bytes."""
    state, found = None, []
    for setting in itertools.cycle(settings):
        batches, states = take(2, state, **setting)
        found += batches
        assert all(each == states[0] for each in states)
        state = json.loads(json.dumps(states[0]))
        if state["epoch"] == 1:
            break
        assert state["position"] == sum(map(len, found))
    assert torch.equal(torch.cat(found), stream[0])


def test_a_state_is_small_plain_and_safe(tmp_path):
    """It is JSON under 1 KiB, and equal after ``torch.load(weights_only=True)``."""
    one = loader()
    next(iter(one))
    state = one.state_dict()
    assert len(json.dumps(state)) < 1024
    torch.save(state, tmp_path / "state")
    assert torch.load(tmp_path / "state", weights_only=True) == state
    assert (state["mode"], state["seed"], state["epoch"], state["position"]) == ("seed", 7, 0, 4)


def test_an_interrupted_resume_goes_on_where_it_was_to_begin(stream):
    """A pass that delivered nothing uses up nothing, also if it began in the middle."""
    _, (state,) = take(3, None)
    with loader(workers=1) as one:
        one.load_state_dict(state)
        iter(one)
        assert one.state_dict() == state
        assert torch.equal(torch.cat(list(one)), stream[0][12:])


def test_a_state_behind_the_last_batch_is_the_next_epoch(stream):
    """Whether the end was seen or not."""
    one = loader()
    steps = iter(one)
    for _ in range(len(one)):
        next(steps)
    state = one.state_dict()
    assert (state["epoch"], state["position"]) == (1, 0)
    assert next(steps, None) is None
    assert one.state_dict() == state
    other = loader()
    other.load_state_dict(state)
    assert torch.equal(torch.cat(list(other)), stream[1])


def test_epochs_after_a_resume_are_whole_and_follow(stream):
    """Only the pass that resumes begins in the middle."""
    _, (state,) = take(3, None)
    with loader(workers=2, persistent_workers=True) as one:
        one.load_state_dict(state)
        epochs = [torch.cat(list(one)) for _ in range(2)]
        assert one.epoch == 1
    assert torch.equal(epochs[0], stream[0][12:])
    assert torch.equal(epochs[1], stream[1])


@pytest.mark.parametrize(("epoch", "start"), [(0, 12), (2, 0)], ids=["the same", "another"])
def test_set_epoch_keeps_the_position_of_its_own_epoch_only(stream, epoch, start):
    """A trainer that sets the epoch of a loaded state does not begin it again."""
    _, (state,) = take(3, None)
    one = loader()
    one.load_state_dict(state)
    one.set_epoch(epoch)
    assert torch.equal(torch.cat(list(one)), stream[epoch][start:])


def test_the_epoch_that_a_trainer_gives_the_sampler_counts(stream):
    """``loader.sampler`` is a DistributedSampler by type, and its ``set_epoch`` is the loader's."""
    one = loader()
    assert isinstance(one.sampler, torch.utils.data.DistributedSampler)
    one.sampler.set_epoch(2)
    assert torch.equal(torch.cat(list(one)), stream[2])
    assert one.epoch == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "seed 7; this loader has seed 8"),
        ({"shuffle": False}, "'ShuffleSampler'; this loader has sampler 'SequentialSampler'"),
        (
            {"dataset": Drawing(60)},
            "a dataset of length 61; this loader has a dataset of length 60",
        ),
        ({"seed": None}, "with seed=7; this loader has none"),
    ],
    ids=["seed", "order", "length", "mode"],
)
def test_a_state_of_another_stream_is_refused(changes, message):
    """At the call, with both values."""
    one = loader()
    next(iter(one))
    options = {"dataset": Drawing(LENGTH), "batch_size": 4, "shuffle": True, "seed": 7, **changes}
    other = fastload.DataLoader(**options)
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(one.state_dict())


def test_a_state_of_an_unseeded_loader_is_refused():
    """And the error says what it is."""
    unseeded = fastload.DataLoader(Drawing(LENGTH), batch_size=4)
    next(iter(unseeded))
    with pytest.raises(ValueError, match="this loader has seed=, but the state is not one"):
        loader().load_state_dict(unseeded.state_dict())


PROGRAM = """
import json, pathlib, sys, torch
from tests.seeded.test_resume import loader
folder, batch_size, workers = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if __name__ == "__main__":
    one = loader(batch_size=batch_size, workers=workers)
    state = folder / "state"
    if state.exists():
        one.load_state_dict(json.loads(state.read_text()))
    for batch in one:
        number = len(list(folder.glob("*.batch")))
        position = one.state_dict()
        torch.save(batch, folder / "new")
        (folder / "new").rename(folder / f"{number:03}.batch")
        (folder / "new").write_text(json.dumps(position))
        (folder / "new").rename(state)
        print(flush=True)
        sys.stdin.readline()
"""


def test_a_killed_run_goes_on_in_another_process(stream, tmp_path):
    """SIGKILL after any step, another batch size and number of workers each time."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    third = [(2, 6, 1)] * rounds(0, 1)
    for steps, batch_size, workers in [(1, 4, 0), (3, 3, 2), *third, (100, 5, 0)]:
        process = subprocess.Popen(
            [sys.executable, program, tmp_path, str(batch_size), str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        with process:
            for _ in range(steps):
                if not process.stdout.readline():
                    break
                process.stdin.write("\n")
                process.stdin.flush()
                if _ == steps - 1:
                    process.send_signal(signal.SIGKILL)
    saved = sorted(tmp_path.glob("*.batch"))
    found = torch.cat([torch.load(file) for file in saved])
    assert torch.equal(found, stream[0])
