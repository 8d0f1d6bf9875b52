"""Several ranks train one module, and none of them outlives another."""

import contextlib
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from fastload.tools.training.loaders import DealtByTorch

from .test_interrupted import LIMIT_S, SAMPLES, command, environment, steps_in, trained

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are killed by number"),
    pytest.mark.timeout(4 * LIMIT_S),
]

AS_ONE = 1e-4  # float32 sums in another order, over 46 steps of AdamW


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_ranks_train_on_each_sample_once_with_the_losses_of_one(ranks, tmp_path):
    """Without an option: equal global batches, and an incomplete last step of unequal parts."""
    alone = trained(tmp_path, "--workers", 0, "--batch-size", 48)
    result = trained(tmp_path, "--workers", 0, "--batch-size", 48 // ranks, ranks=ranks, stream=())
    assert (result["ranks"], result["samples"]) == (ranks, SAMPLES)
    assert result["loss_history"] == pytest.approx(alone["loss_history"], abs=AS_ONE)
    assert result["accuracy_history"] == pytest.approx(alone["accuracy_history"], abs=0.01)


@pytest.mark.exhaustive
def test_ranks_with_torchs_loader_train_on_each_sample_once(tmp_path):
    """With a DistributedSampler: other orders, but the same number of samples and one module."""
    options = ("--workers", 0, "--batch-size", 32, "--loader", "torch")
    result = trained(tmp_path, *options, ranks=2, stream=())
    assert (result["ranks"], result["samples"]) == (2, SAMPLES)
    assert result["accuracy"] > 0.5


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_torchs_sampler_counts_each_sample_once(ranks):
    """What fills the last step is not counted, and each epoch has another order."""
    loaders = []
    for rank in range(ranks):
        sampler = DistributedSampler(range(11), num_replicas=ranks, rank=rank, seed=3)
        loaders.append(DealtByTorch(DataLoader(range(11), 2, sampler=sampler), sampler))
    epochs = []
    for _ in range(2):
        counted = [[batch[each.mask()].tolist() for batch in each] for each in loaders]
        assert len({len(each) for each in counted}) == 1
        epochs.append([number for rank in counted for batch in rank for number in batch])
        assert sorted(epochs[-1]) == list(range(11))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_rank_ends_the_training_and_leaves_nothing(victim, tmp_path):
    """Torchrun ends with an error, and neither a rank nor a worker of one is left."""
    checkpoint = tmp_path / "run.pt"
    options = ("--epochs", 100, "--workers", 1, "--checkpoint", checkpoint, "--checkpoint-every", 1)
    output = tmp_path / "output"
    with started(output, command(*options, ranks=2)) as process:
        wait_for_steps(checkpoint, 3, process)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 4  # two ranks with a worker each
        [rank] = [each for each in family if is_rank(each, victim)]
        rank.send_signal(signal.SIGKILL)
        assert process.wait(LIMIT_S) != 0
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == []
    assert "Signal 9 (SIGKILL)" in output.read_text()
    torch.load(checkpoint)  # whole


def test_rank_whose_peer_is_killed_ends_by_itself(tmp_path):
    """Also where nobody watches over the ranks: an error that says what happened and what to do."""
    checkpoint = tmp_path / "run.pt"
    options = ("--stream", "--epochs", 100, "--workers", 1)
    saved = ("--checkpoint", checkpoint, "--checkpoint-every", 1)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with contextlib.ExitStack() as stack:
        ranks = [
            stack.enter_context(
                started(
                    tmp_path / f"output {rank}",
                    command(*options, *saved),
                    **shared,
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                )
            )
            for rank in range(2)
        ]
        wait_for_steps(checkpoint, 3, ranks[0])
        workers = [each for rank in ranks for each in psutil.Process(rank.pid).children()]
        assert len(workers) >= 2
        ranks[1].kill()
        assert ranks[0].wait(LIMIT_S) == 3
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert alive == []
        words = (tmp_path / "output 0").read_text()
    assert "[rank 0]" in words
    assert "another rank has ended or does not answer" in words
    assert "--resume" in words


def test_checkpoint_of_two_ranks_goes_on_with_three_and_with_one(tmp_path):
    """Neither a sample twice nor one left out; what is left of an epoch is dealt anew."""
    checkpoint = tmp_path / "run.pt"
    options = ("--workers", 0, "--checkpoint", checkpoint)
    first = trained(tmp_path, "--epochs", 1, "--batch-size", 32, *options, ranks=2)
    mid_epoch(checkpoint, samples=5 * 64)
    second = trained(tmp_path, "--batch-size", 16, "--epochs", 2, *options, "--resume", ranks=3)
    assert second["samples"] == SAMPLES - 5 * 64
    mid_epoch(checkpoint, samples=1437 + 333)
    third = trained(tmp_path, "--batch-size", 64, "--epochs", 2, *options, "--resume")
    assert third["samples"] == SAMPLES - 1437 - 333
    assert [each["ranks"] for each in (first, second, third)] == [2, 3, 1]


def mid_epoch(checkpoint, samples):
    """Make a checkpoint say that it was saved after so many samples."""
    state = torch.load(checkpoint)
    state["loader"] |= {"epoch": samples // 1437, "position": samples % 1437}
    torch.save(state, checkpoint)


@contextlib.contextmanager
def started(output, arguments, **variables):
    """A program whose words go to a file; nothing of it is left."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            arguments, env={**environment(), **variables}, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in psutil.Process(process.pid).children(recursive=True):
                each.kill()
        process.kill()
        process.wait(60)


def wait_for_steps(checkpoint, steps, process):
    """Wait until a training has saved so many steps."""
    deadline = time.monotonic() + LIMIT_S
    while steps_in(checkpoint) < steps:
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_rank(process, number):
    """Whether a process was started as this rank, and not by it."""
    with contextlib.suppress(psutil.Error):
        is_started = process.parent().environ().get("RANK") is None
        return is_started and process.environ().get("RANK") == str(number)
    return False


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
