"""Hugging Face's Trainer: torch's losses with our loaders, and with ``seed=`` exact resumes."""

from __future__ import annotations

import logging
import warnings

import pytest

from fastload import DataLoader
from fastload.integrations.transformers import use_fastload

from .test_two_processes import run_in_two_processes

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from .programs.two_transformers import trained as trained_alone
    from .programs.with_transformers import losses, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 12  # two epochs of 22 samples in batches of 4


@pytest.fixture(autouse=True)
def quiet():
    """Nothing to say about checkpoints."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    yield
    import accelerate

    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def trained(folder, workers, checkpoint=None, **options):
    """The loss of every step of a training with our loaders."""
    trainer = use_fastload(make_trainer(folder, workers), **options)
    trainer.train(resume_from_checkpoint=checkpoint)
    return losses(trainer)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the losses of a seeded training without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return folder, trained(folder, 0, seed=7)


@pytest.mark.parametrize(("step", "workers"), [(4, 2), (8, 0), (8, 2)])
def test_seeded_training_goes_on_with_equal_losses(whole, tmp_path, step, workers) -> None:
    """From a checkpoint in the middle of either epoch, augmentation and dropout included."""
    folder, expected = whole
    assert len(expected) == STEPS
    assert trained(tmp_path, workers, str(folder / f"checkpoint-{step}"), seed=7) == expected


def test_seeded_training_follows_from_the_seed(whole, tmp_path) -> None:
    """Another seed gives other batches."""
    assert trained(tmp_path, 0, seed=8) != whole[1]


def test_losses_without_a_seed_are_torchs(tmp_path) -> None:
    """An option of ours alone changes nothing that is trained."""
    trainer = make_trainer(tmp_path)
    trainer.train()
    assert trained(tmp_path / "ours", 0, memory_limit=1 << 20) == losses(trainer)


def test_all_loaders_are_ours_with_their_options(tmp_path) -> None:
    """For training, evaluation and prediction; a loader that is kept stays the same one."""
    options = {"dataloader_persistent_workers": True}
    trainer = use_fastload(make_trainer(tmp_path, 1, **options), seed=7, max_worker_restarts=3)
    loaders = [
        trainer.get_train_dataloader(),
        trainer.get_eval_dataloader(),
        trainer.get_test_dataloader(trainer.eval_dataset),
    ]
    for loader in loaders:
        assert type(loader.base_dataloader) is DataLoader
        assert (loader.seed, loader.max_worker_restarts, loader.num_workers) == (7, 3, 1)
    assert trainer.get_eval_dataloader() is loaders[1]
    assert [loader.sampler.shuffle for loader in loaders] == [True, False, False]


def test_evaluations_of_a_seeded_trainer_are_equal(tmp_path) -> None:
    """Each evaluation makes its loader anew, and draws the same augmentation."""
    trainer = use_fastload(make_trainer(tmp_path), seed=7)
    first, second = (trainer.evaluate()["eval_loss"] for _ in range(2))
    assert first == second


def test_two_ranks_train_as_one_and_go_on_from_their_checkpoint(tmp_path) -> None:
    """Half the batch size a rank: the same global batches, losses up to rounding."""
    expected = trained_alone(tmp_path / "alone", 1)
    both = run_in_two_processes("two_transformers", "transformers", (tmp_path / "both",))
    assert both[0] == _approx(expected)
    checkpoint = tmp_path / "both" / "checkpoint-8"
    again = run_in_two_processes("two_transformers", "transformers", (tmp_path / "a", checkpoint))
    assert again[0] == both[0]
    assert trained_alone(tmp_path / "one", 1, str(checkpoint)) == _approx(expected)


def _approx(expected):
    return [[step, pytest.approx(loss, abs=1e-5)] for step, loss in expected]
