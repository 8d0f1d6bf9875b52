"""The tasks of the reference training: data, how it is batched, and the module."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from fastload.tools.training.config import TaskName
from fastload.tools.training.datasets import PACKAGES, collate_snippets, load_digits, load_snippets
from fastload.tools.training.module import Classifier, digits_classifier, text_classifier


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """Two datasets and a module, not trained yet. `collate_fn` None means torch's default."""

    training: Dataset[Any]
    held_out: Dataset[Any]
    module: Classifier
    collate_fn: Callable[[list[Any]], Any] | None = None


def make_task(name: TaskName) -> TrainingTask:
    """Load the data and draw the module's weights from torch's global generator."""
    if name == "digits":
        return TrainingTask(*load_digits(), digits_classifier())
    return TrainingTask(*load_snippets(), text_classifier(len(PACKAGES)), collate_snippets)
