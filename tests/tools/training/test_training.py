from dataclasses import replace

import pytest
import torch

from fastload.tools.training import TrainingConfig, train
from fastload.tools.training.module import digits_classifier


@pytest.mark.parametrize(
    ("task", "workers"),
    [
        ("digits", 2),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in (("digits", 0), ("text", 0), ("text", 2))
        ),
    ],
)
def test_loaders_give_the_same_losses(task, workers):
    """With one seed the losses are the same to the last bit, whichever loader feeds the loop."""
    config = TrainingConfig(task=task, workers=workers, epochs=2 if task == "digits" else 1)
    ours, theirs = (train(replace(config, loader=loader)) for loader in ("fastload", "torch"))
    assert ours.loss_history == theirs.loss_history
    assert ours.accuracy == theirs.accuracy


def test_other_seed_gives_other_losses():
    """The seed decides weights, order and augmentation."""
    config = TrainingConfig(workers=0, epochs=1)
    assert train(config).loss_history != train(replace(config, seed=1)).loss_history


def test_digits_are_learned():
    """The default number of epochs brings the held-out digits above 95 %."""
    result = train(TrainingConfig(workers=0))
    assert result.accuracy > 0.95
    assert 0 < result.stall_share < 1


def test_packages_are_learned():
    """After one epoch the source of a snippet is told far better than by chance."""
    result = train(TrainingConfig(task="text", workers=0, epochs=1))
    assert result.accuracy > 0.25


def test_steps_are_told():
    """The callback hears of every step, in order."""
    steps = []
    result = train(TrainingConfig(workers=0, epochs=2), steps.append)
    assert [step.step for step in steps] == list(range(1, len(result.loss_history) + 1))
    assert tuple(step.loss for step in steps) == result.loss_history
    assert (steps[0].epoch, steps[-1].epoch, steps[-1].steps) == (0, 1, len(steps))


def test_settings_of_torch_are_restored():
    """Training leaves the number of threads and the choice of kernels as they were."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    train(TrainingConfig(workers=0, epochs=1))
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_scale_is_learned():
    """The module's own parameter takes part in the gradient."""
    module = digits_classifier()
    module(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert module.scale.grad is not None
