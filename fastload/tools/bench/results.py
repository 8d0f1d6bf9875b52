"""Results that the processes of a benchmark send one another: values that turn into JSON."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EqualityVerdict:
    """Whether a workload's batches are equal.

    Attributes:
        workload: its name.
        difference: the first difference, in words; None if there is none.
        error: a traceback, if one of the loaders raised.
        overran: whether the time limit ended the check.
    """

    workload: str
    difference: str | None = None
    error: str | None = None
    overran: bool = False


@dataclass(frozen=True, slots=True)
class LoaderMeasurement:
    """What one loader achieved in one process.

    Attributes:
        rate: units per second: samples from the first batch's arrival to the last one's, start-up
            not counted; or whole epochs, everything counted, the first epoch left out.
        first_batch_s: from `iter(loader)` to the first batch, in the first epoch.
        cpu_s_per_epoch: user and system time of the consumer and of its workers.
        epochs: epochs loaded in all.
        batches: batches loaded in all.
        counted_s: the time behind `rate`.
        children_left: processes still there after the loader was dropped.
    """

    rate: float
    first_batch_s: float
    cpu_s_per_epoch: float
    epochs: int
    batches: int
    counted_s: float
    children_left: int


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One measurement and what its process looked like from outside."""

    round: int
    loader: str
    measurement: LoaderMeasurement
    peak_memory_bytes: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a workload has no figures.

    Attributes:
        kind: the batches were unequal, a process exceeded its time, or a loader raised.
        message: what happened, for people; the last line is the gist.
    """

    kind: Literal["unequal", "overran", "raised"]
    message: str


@dataclass(frozen=True, slots=True)
class WorkloadResult:
    """All runs of one workload, in the order in which they happened.

    `same_data` is False where the loaders were given different datasets or collate functions: the
    usual way and fastload's own.
    """

    workload: str
    description: str
    workers: int
    batch_size: int
    samples: int
    unit: Literal["samples", "epochs"]
    runs: tuple[MeasuredRun, ...] = ()
    failure: Failure | None = None
    same_data: bool = True
