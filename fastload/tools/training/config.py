"""The options, steps and result of a training run."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

TaskName: TypeAlias = Literal["digits", "text"]
LoaderName: TypeAlias = Literal["fastload", "torch"]
Precision: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What to train, with which loader.

    Attributes:
        task: which data and module.
        loader: whose DataLoader feeds the loop.
        workers: the loader's worker processes.
        prefetch_factor: batches that each of them loads ahead; None: the loader's default.
        epochs: passes over the training data.
        batch_size: samples of a batch, on each rank.
        accumulate: batches whose gradients are added up for one step of the optimizer.
        learning_rate: of AdamW.
        precision: of the module's products; the weights stay float32.
        encoder: checkpoint of another training of this task, whose encoder is taken over and
            frozen: only what stands above it is trained.
        seed: of all random generators: the same seed gives the same losses, whichever the loader.
        stream: give the seed to the loader too: the losses then don't depend on the number of
            workers or on interruptions, and several ranks share the samples. Torch's has no such
            mode.
        checkpoint: file from which the training can go on; needs `stream`.
        checkpoint_every: steps after which it is written again; it is at the end, too.
        resume: go on from that file, if it exists.
    """

    task: TaskName = "digits"
    loader: LoaderName = "fastload"
    workers: int = 2
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-3
    seed: int = 0
    prefetch_factor: int | None = None
    stream: bool = False
    checkpoint: str | None = None
    checkpoint_every: int = 50
    resume: bool = False
    accumulate: int = 1
    precision: Precision = "float32"
    encoder: str | None = None

    def __post_init__(self) -> None:
        if self.stream and self.loader != "fastload":
            raise ValueError(
                f"stream is a mode of fastload's loader; {self.loader}'s has no seed= and depends "
                f"on the number of workers. Leave out one of the two"
            )
        if self.checkpoint is not None and not self.stream:
            raise ValueError(
                "checkpoint needs stream: otherwise the random numbers of the dataset depend on "
                "when the workers were started, and a run that goes on has other losses"
            )
        if self.resume and self.checkpoint is None:
            raise ValueError("resume needs checkpoint: the file to go on from")


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
        samples_per_s: over the training epochs, evaluation left out.
        stall_share: share of that time spent waiting for the loader, from 0 to 1.
        elapsed_s: the time of the training epochs.
        samples: training samples of this run, over all ranks; what it went on from not counted.
        ranks: processes that trained together.
        loss_history: the loss of every step, of the runs before that it goes on from too.
        stall_history: for each of them, the share of its time that was spent waiting.
        accuracy_history: on held-out samples, after each epoch.
    """

    loss: float
    accuracy: float
    samples_per_s: float
    stall_share: float
    elapsed_s: float
    samples: int
    ranks: int
    loss_history: tuple[float, ...]
    stall_history: tuple[float, ...]
    accuracy_history: tuple[float, ...]
