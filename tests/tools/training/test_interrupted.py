"""A training with `stream` has one loss history, however it is run and interrupted."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

ROOT = Path(__file__).parents[3]
LIMIT_S = 280
EPOCHS = 2
STEPS = 46  # two epochs of 1,437 digits in batches of 64
SAMPLES = 2 * 1437

KILLED_AT = """
import os, signal, sys
from fastload.tools.training import TrainingConfig, train

def die(step):
    if step.step == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

train(
    TrainingConfig(
        epochs=2, workers=int(sys.argv[2]), stream=True, resume=True,
        checkpoint=sys.argv[3], checkpoint_every=int(sys.argv[4]),
    ),
    die,
)
"""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are killed by number"),
    pytest.mark.timeout(4 * LIMIT_S),
]


def command(*options, ranks=1):
    """The command line of a training."""
    start = [sys.executable, "-m"]
    if ranks > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    return [*start, "fastload", "train", "--epochs", str(EPOCHS), *map(str, options)]


def environment():
    """No warning about the two cores of CI; one thread a rank."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore::UserWarning",
        "OMP_NUM_THREADS": "1",
    }


def trained(folder, *options, ranks=1, stream=("--stream",)):
    """Run a training to its end; its result."""
    file = folder / "result.json"
    done = subprocess.run(
        command(*stream, *options, "--json", file, ranks=ranks),
        env=environment(),
        timeout=LIMIT_S,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())["result"]


def kill_all(process):
    """SIGKILL a program and all that descends from it."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for each in family:
        each.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=60)
    process.wait(60)


def kill_after_steps(steps, checkpoint, *options, ranks=1):
    """Kill a training from outside once its checkpoint has so many steps; how many it has."""
    process = subprocess.Popen(
        command(
            "--stream", "--checkpoint", checkpoint, "--checkpoint-every", 1, *options, ranks=ranks
        ),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + LIMIT_S
    try:
        while steps_in(checkpoint) < steps:
            assert process.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        kill_all(process)
    return steps_in(checkpoint)


def steps_in(checkpoint):
    """How many steps a checkpoint has, which must be whole at any moment."""
    return len(torch.load(checkpoint)["losses"]) if checkpoint.exists() else 0


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The result without interruption, without workers, of one rank."""
    result = trained(tmp_path_factory.mktemp("expected"), "--workers", 0)
    assert len(result["loss_history"]) == STEPS
    return result


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.exhaustive), 3])
def test_any_number_of_workers_gives_the_same_losses(expected, workers, tmp_path):
    """Losses with random augmentation are equal to the bit for 0, 1 and 3 workers."""
    result = trained(tmp_path, "--workers", workers)
    assert result["loss_history"] == expected["loss_history"]
    assert result["accuracy"] == expected["accuracy"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", [0, 1])
def test_killed_and_resumed_gives_the_same_losses(expected, case, tmp_path):
    """Killed twice, each time at a random step, and resumed with other workers: equal losses."""
    draw = random.Random(case)
    checkpoint = tmp_path / "run.pt"
    every = draw.choice([1, 3])
    for first, last, workers in ((1, 23, 3), (24, STEPS - 1, 1)):
        killed = subprocess.run(
            [
                *(sys.executable, "-c", KILLED_AT, str(draw.randint(first, last))),
                *(str(workers), str(checkpoint), str(every)),
            ],
            env=environment(),
            timeout=LIMIT_S,
        )
        assert killed.returncode == -signal.SIGKILL
    assert (every == 3) <= (steps_in(checkpoint) % 3 == 0)
    result = trained(tmp_path, "--workers", 0, "--checkpoint", checkpoint, "--resume")
    assert result["loss_history"] == expected["loss_history"]
    assert result["accuracy"] == expected["accuracy"]
    assert result["samples"] < SAMPLES


def test_killed_from_outside_leaves_a_whole_checkpoint(expected, tmp_path):
    """The file can be read at any moment, and the command goes on from it."""
    checkpoint = tmp_path / "run.pt"
    kill_after_steps(random.Random(5).randint(2, 20), checkpoint, "--workers", 2)
    result = trained(tmp_path, "--workers", 0, "--checkpoint", checkpoint, "--resume")
    assert result["loss_history"] == expected["loss_history"]


def test_two_ranks_killed_go_on_as_one(expected, tmp_path):
    """A checkpoint of two ranks that were killed goes on with one rank, and as one."""
    checkpoint = tmp_path / "run.pt"
    done = kill_after_steps(5, checkpoint, "--workers", 1, "--batch-size", 32, ranks=2)
    result = trained(tmp_path, "--workers", 0, "--checkpoint", checkpoint, "--resume")
    assert result["samples"] == SAMPLES - (done // 23 * 1437 + done % 23 * 64)
    assert result["loss_history"] == pytest.approx(expected["loss_history"], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--loader", "torch", "--stream"), "stream is a mode of fastload's loader"),
        (("--checkpoint", "run.pt"), "checkpoint needs stream"),
        (("--stream", "--resume"), "resume needs checkpoint"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words, capsys):
    """The command line says which option is missing, and ends with the code of wrong usage."""
    from fastload.tools.cli import main

    assert main(["train", *options]) == 2
    assert words in capsys.readouterr().err


def test_ranks_without_stream_are_refused(monkeypatch):
    """Ranks that would all train on all samples are an error."""
    from fastload.tools.training import TrainingConfig, train

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="give stream=True"):
        train(TrainingConfig(workers=0))


def test_checkpoint_of_another_training_is_refused(tmp_path):
    """A checkpoint of another task or seed is an error that names both values."""
    from fastload.tools.training import TrainingConfig, train

    file = str(tmp_path / "run.pt")
    train(TrainingConfig(workers=0, epochs=1, stream=True, checkpoint=file))
    with pytest.raises(ValueError, match=r"seed 0, this one has seed 1"):
        train(
            TrainingConfig(workers=0, epochs=1, seed=1, stream=True, checkpoint=file, resume=True)
        )
