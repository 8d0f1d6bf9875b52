"""The course of a training as an image file, by matplotlib (`pip install 'fastload[plot]'`).

Runs in: consumer.
Takes: a `TrainingResult`.
Gives: a matplotlib figure, or a PNG file.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fastload.tools.training.config import TrainingResult

_SMOOTHED = 20
"""Steps over which the drawn mean of losses and stall shares goes, at most."""


def draw(result: TrainingResult) -> Any:
    """Return a `matplotlib.figure.Figure`: loss and accuracy above, stall share below.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    steps = len(result.loss_history)
    _draw_steps(upper, result.loss_history, "tab:blue", "loss")
    upper.set(title=f"{steps} steps, accuracy {result.accuracy:.2%}", ylabel="loss")

    right = upper.twinx()
    ends = np.linspace(0, steps, len(result.accuracy_history) + 1)[1:]
    right.plot(ends, result.accuracy_history, "o-", color="tab:green", label="accuracy")
    right.set(ylabel="accuracy on held-out samples", ylim=(0, 1))
    upper.legend(loc="center left", frameon=False)
    right.legend(loc="center right", frameon=False)

    _draw_steps(lower, result.stall_history, "tab:red", "stall share")
    lower.set(xlabel="step", ylabel="time spent waiting", ylim=(0, 1))
    return figure


def save(result: TrainingResult, path: Path) -> None:
    """Draw into a PNG file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: The file can't be written.
    """
    draw(result).savefig(path, dpi=120, format="png")


def _draw_steps(axes: Any, values: tuple[float, ...], color: str, label: str) -> None:
    """Draw the value of each step faintly, and a running mean over it."""
    width = min(_SMOOTHED, len(values))
    steps = np.arange(1, len(values) + 1)
    axes.plot(steps, values, color=color, alpha=0.25)
    means = np.convolve(values, np.ones(width) / width, mode="valid")
    axes.plot(steps[width - 1 :], means, color=color, label=label)
