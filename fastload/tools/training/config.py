"""The options, steps and result of a training run."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

TaskName: TypeAlias = Literal["digits", "text"]
LoaderName: TypeAlias = Literal["fastload", "torch"]


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What to train, with which loader.

    Attributes:
        task: which data and module.
        loader: whose DataLoader feeds the loop.
        workers: the loader's worker processes.
        prefetch_factor: batches that each of them loads ahead; None: the loader's default.
        epochs: passes over the training data.
        batch_size: samples per step.
        learning_rate: of AdamW.
        seed: of all random generators: the same seed gives the same losses, whichever the loader.
    """

    task: TaskName = "digits"
    loader: LoaderName = "fastload"
    workers: int = 2
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-3
    seed: int = 0
    prefetch_factor: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of training, told as it happens. `stall_share` is that of the run so far."""

    epoch: int
    step: int
    steps: int
    loss: float
    stall_share: float


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What came of a training run.

    Attributes:
        loss: mean over the last epoch's steps.
        accuracy: share of held-out samples classified rightly, from 0 to 1.
        samples_per_s: over the training epochs, everything in them counted.
        stall_share: share of that time spent waiting for the loader, from 0 to 1.
        elapsed_s: the time of the training epochs.
        loss_history: the loss of every step.
    """

    loss: float
    accuracy: float
    samples_per_s: float
    stall_share: float
    elapsed_s: float
    loss_history: tuple[float, ...]
