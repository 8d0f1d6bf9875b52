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


def test_gradients_of_small_batches_add_up_to_those_of_a_large_one():
    """The same steps, the incomplete ones at the end of an epoch included, up to rounding."""
    config = TrainingConfig(workers=0, epochs=2, stream=True)
    large, small = (
        train(replace(config, batch_size=64 // parts, accumulate=parts)) for parts in (1, 4)
    )
    assert small.loss_history == pytest.approx(large.loss_history, abs=1e-4)
    assert small.samples == large.samples == 2 * 1437


def test_mixed_precision_trains_weights_of_full_precision(tmp_path):
    """Losses are near those of float32, not equal; the checkpoint holds float32."""
    file = str(tmp_path / "run.pt")
    config = TrainingConfig(workers=0, epochs=1, stream=True)
    mixed = train(replace(config, precision="bfloat16", checkpoint=file))
    full = train(config)
    assert mixed.loss_history != full.loss_history
    assert mixed.loss_history == pytest.approx(full.loss_history, abs=0.2)
    weights = torch.load(file)["module"].values()
    assert {each.dtype for each in weights} == {torch.float32}


def test_encoder_that_is_taken_over_is_frozen(tmp_path):
    """Only the head is trained; not even weight decay touches what is below it."""
    first, second = str(tmp_path / "first.pt"), str(tmp_path / "second.pt")
    config = TrainingConfig(workers=0, epochs=1, stream=True)
    whole = train(replace(config, epochs=2, checkpoint=first))
    head = train(replace(config, seed=5, encoder=first, checkpoint=second))
    before, after = (torch.load(file)["module"] for file in (first, second))
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("encoder."), name
    fresh = train(replace(config, seed=5))
    assert fresh.loss > head.loss > 0
    assert whole.accuracy > 0


def test_encoder_of_another_task_is_refused(tmp_path):
    """The error names the file and the cure."""
    file = str(tmp_path / "digits.pt")
    train(TrainingConfig(workers=0, epochs=1, stream=True, checkpoint=file))
    with pytest.raises(ValueError, match=r"digits\.pt is of task .digits. .* same task"):
        train(TrainingConfig(task="text", workers=0, epochs=1, encoder=file))


def test_held_out_samples_are_classified_after_each_epoch():
    """The last accuracy is the result's."""
    result = train(TrainingConfig(workers=0, epochs=3))
    assert len(result.accuracy_history) == 3
    assert result.accuracy_history[-1] == result.accuracy > result.accuracy_history[0]
    assert len(result.stall_history) == len(result.loss_history)
    assert all(0 < share < 1 for share in result.stall_history)


def test_run_that_goes_on_at_the_end_of_an_epoch_has_all_accuracies(tmp_path):
    """Also if it was interrupted between the last step and the evaluation."""
    file = str(tmp_path / "run.pt")
    config = TrainingConfig(workers=0, epochs=2, stream=True, checkpoint=file, checkpoint_every=23)
    whole = train(config)

    class Interrupted(Exception):
        pass

    def interrupt(step):
        if step.step == 23:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config, interrupt)
    rest = train(replace(config, resume=True))
    assert rest.accuracy_history == whole.accuracy_history
    assert rest.loss_history == whole.loss_history


def test_course_of_a_training_is_drawn(tmp_path):
    """A PNG file with loss, accuracy and stall share."""
    pytest.importorskip("matplotlib")
    from fastload.tools.training.plot import draw, save

    result = train(TrainingConfig(workers=0, epochs=2))
    upper, lower, right = draw(result).axes
    assert [len(line.get_xdata()) for line in upper.lines] == [46, 46 - 19]
    assert list(right.lines[0].get_ydata()) == list(result.accuracy_history)
    assert lower.get_ylabel() == "time spent waiting"
    save(result, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_scale_is_learned():
    """The module's own parameter takes part in the gradient."""
    module = digits_classifier()
    module(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert module.scale.grad is not None
