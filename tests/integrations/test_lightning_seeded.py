"""Lightning and loaders with ``seed=``: neither sharded again nor rebuilt, exact resumes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import RandomSampler

from fastload import DataLoader, prefetch
from fastload._device import copying
from tests.device.fake_device import FakeDevice

from .test_two_processes import run_in_two_processes

pytest.importorskip("lightning")

from lightning.fabric.utilities.data import _update_dataloader
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.data import _update_dataloader as _update_for_stage

from .programs.two_lightning_seeded import Line, Noisy, fit

# Lightning's own advice, and what it does of torch's that is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")

EPOCHS, STEPS = 3, 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of checkpoints and the steps of a fit in one process without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(folder)[0]


def test_batches_are_those_of_the_loader_alone(whole) -> None:
    """Each epoch is the next one of the stream."""
    loader = DataLoader(Noisy(), 8, shuffle=True, seed=7)
    expected = [numbers.tolist() for _ in range(EPOCHS) for _, _, numbers in loader]
    assert [numbers for *_, numbers in whole[1]] == expected
    assert expected[:STEPS] != expected[STEPS : 2 * STEPS]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [2, 3, 5])
def test_checkpoint_goes_on_with_equal_losses(whole, tmp_path, step, workers) -> None:
    """In the middle of an epoch and at its end, with other workers, augmentation included."""
    folder, steps = whole
    rest, loader = fit(tmp_path, checkpoint=folder / f"step={step}.ckpt", workers=workers)
    assert rest == steps[step:]
    assert loader.state_dict()["epoch"] == EPOCHS


@pytest.mark.parametrize("step", [2, 3])
def test_checkpoint_counts_what_was_handed_out_behind_copies_ahead(
    whole, tmp_path, step, monkeypatch
) -> None:
    """Lightning saves the state of what it is given, and the rest is that of the loader alone."""
    monkeypatch.setattr(copying, "stream_module", lambda _: FakeDevice())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)

    def ahead(loader):
        return prefetch(loader, "cpu", depth=3)

    steps, _ = fit(tmp_path, wrap=ahead)
    assert steps == whole[1]
    for folder, wrap in ((tmp_path, lambda loader: loader), (whole[0], ahead)):
        checkpoint = folder / f"step={step}.ckpt"
        rest, _ = fit(tmp_path / "rest", checkpoint=checkpoint, wrap=wrap)
        assert rest == steps[step:]


def test_two_ranks_train_as_one_and_one_goes_on_from_their_checkpoint(whole, tmp_path) -> None:
    """Half the batch size: the steps joined are those of one rank, losses up to rounding."""
    ranks = run_in_two_processes("two_lightning_seeded", "lightning", (tmp_path,))
    for rank in ranks:
        assert (rank["class"], rank["seed"]) == ("fastload.dataloader", 7)
        assert (rank["memory_limit"], rank["sampler"]) == (1 << 20, "StreamSampler")
    _assert_equal(_joined(ranks), whole[1])

    checkpoint = tmp_path / "step=4.ckpt"
    alone, _ = fit(tmp_path / "alone", checkpoint=checkpoint)
    _assert_equal(alone, whole[1][4:])
    again = run_in_two_processes("two_lightning_seeded", "lightning", (tmp_path / "b", checkpoint))
    assert [rank["steps"] for rank in again] == [rank["steps"][4:] for rank in ranks]


def _joined(ranks):
    """The steps of two ranks as those of one: mean loss, samples in the order of ranks."""
    return [
        [*first[:2], (first[2] + second[2]) / 2, first[3] + second[3]]
        for first, second in zip(ranks[0]["steps"], ranks[1]["steps"], strict=True)
    ]


def _assert_equal(found, expected) -> None:
    assert [[*step[:2], step[3]] for step in found] == [[*step[:2], step[3]] for step in expected]
    assert [step[2] for step in found] == pytest.approx([step[2] for step in expected], abs=1e-6)


def test_sampler_that_lightning_would_shard_is_an_error_that_names_the_cure() -> None:
    """Several ranks and the program's own sampler: the loader deals, so Lightning must not."""
    loader = DataLoader(Noisy(), 4, sampler=RandomSampler(range(24)), seed=7)
    sharded = DistributedSamplerWrapper(loader.sampler, num_replicas=2, rank=0)
    with pytest.raises(ValueError, match=r"use_distributed_sampler=False"):
        _update_dataloader(loader, sharded)


@pytest.mark.parametrize("workers", [0, 1])
def test_predictions_are_in_order(workers) -> None:
    """Lightning puts a batch sampler of its own in for them, which counts batches."""

    class Predicts(Line):
        def predict_step(self, batch, number):
            return batch[2]

    loader = DataLoader(Noisy(), 5, seed=7, num_workers=workers)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    assert torch.cat(trainer.predict(Predicts(), loader)).tolist() == list(range(24))


@pytest.mark.parametrize("rank", [0, 1])
def test_predictions_of_two_ranks_are_dealt_once(rank) -> None:
    """The batch sampler has the samples of its rank already."""
    loader = DataLoader(Noisy(), 5, seed=7, num_replicas=2, rank=rank)
    predicting = _update_for_stage(loader, loader.sampler, mode=RunningStage.PREDICTING)
    found = [numbers.tolist() for _, _, numbers in predicting]
    assert found == [numbers.tolist() for _, _, numbers in loader]
    assert found == predicting.batch_sampler.seen_batch_indices


def test_overfit_batches_gives_the_same_batches_each_epoch() -> None:
    """For which Lightning makes the loader anew, in order."""
    module = Line()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        overfit_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(Noisy(), 4, seed=7))
    assert [numbers for *_, numbers in module.steps] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2
