"""What a profile found: everything that the screen, the HTML report and `--json` show.

Runs in: consumer, or where a saved profile is read; without torch.
Takes: plain values.
Gives: a frozen `Profile`, to and from JSON.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from fastload.tools.words import counted

SCHEMA_VERSION = 1

LEAST_GAIN = 1.03
"""A smaller gain is no reason to touch anything."""

Bound: TypeAlias = Literal["not", "moderately", "highly", "unknown"]
"""How input-bound: below 5 %, to 20 %, above; unknown without a consumer's step."""

Culprit: TypeAlias = Literal[
    "fetch-cpu", "fetch-wait", "collate", "hand-off", "stragglers", "consumer", "sampler"
]
"""What limits the throughput at the loader's own setting."""


@dataclass(frozen=True)
class MeasuredOn:
    """Where it was measured. `cores` may be a fraction: affinity, quota and ranks are in it."""

    system: str
    processor: str
    cores: float
    load: float
    python: str
    torch: str | None
    fastload: str | None


@dataclass(frozen=True)
class Schedule:
    """Who loads what at a time: the options of fastload's loader beside workers and prefetching.

    Attributes:
        is_shared: whether any idle worker takes the next task, as with ``seed=``; else task *k*
            goes to worker *k mod n*.
        workers_per_batch: into how many parts a batch is cut; "auto" as the loader chooses.
        concurrent_samples: how many samples of its batch a worker loads at a time.
        worker_method: whether workers are processes or threads.
    """

    is_shared: bool = False
    workers_per_batch: int | Literal["auto"] = 1
    concurrent_samples: int = 1
    worker_method: Literal["process", "thread"] = "process"

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return those that differ from the loader's defaults, as they are written in code."""
        names = ("workers_per_batch", "concurrent_samples", "worker_method")
        return tuple(
            f"{name}={value!r}".replace("'", '"')
            for name in names
            if (value := getattr(self, name)) != getattr(PLAIN, name)
        )

    def __lt__(self, other: Schedule) -> bool:
        """Tell which changes less: settings that are as good are chosen by it."""
        return self._size < other._size

    @property
    def _size(self) -> tuple[int, int, int, bool]:
        parts = -1 if self.workers_per_batch == "auto" else self.workers_per_batch
        is_thread = self.worker_method == "thread"
        return len(self.arguments), self.concurrent_samples, parts, is_thread


PLAIN = Schedule()
"""The schedule of torch's loader, and of fastload's without further options."""


@dataclass(frozen=True, order=True)
class Setting:
    """One point of the grid; without workers nothing is prefetched and `prefetch_factor` is 0."""

    num_workers: int
    prefetch_factor: int
    schedule: Schedule = PLAIN

    @property
    def words(self) -> str:
        """Return the setting in words: "2 workers, prefetch_factor 2"."""
        workers = ["without workers"]
        if self.num_workers:
            workers = [counted(self.num_workers, "worker")]
            workers.append(f"prefetch_factor {self.prefetch_factor}")
        return ", ".join((*workers, *self.schedule.arguments))

    @property
    def arguments(self) -> str:
        """Return the setting as it is written in code."""
        workers = [f"num_workers={self.num_workers}"]
        if self.num_workers:
            workers.append(f"prefetch_factor={self.prefetch_factor}")
        return ", ".join((*workers, *self.schedule.arguments))


@dataclass(frozen=True)
class InputVerdict:
    """Whether training waits for data, and what limits it.

    Attributes:
        bound: how input-bound the training loop is at the loader's own setting.
        culprit: what limits it.
        sentence: the answer in words, with its number.
        stall_share: part of a step that is spent waiting, from 0 to 1.
        headroom: how many times as fast the loop would be if it never waited: what an ideal loader
            gives, ``1 / (1 - stall_share)``; None without a consumer's step.
        samples_per_s: measured at the loader's own setting, with the consumer's step.
        step_s: the consumer's step alone, on cached batches.
    """

    bound: Bound
    culprit: Culprit
    sentence: str
    stall_share: float
    headroom: float | None
    samples_per_s: float
    step_s: float


@dataclass(frozen=True)
class Share:
    """A stage's part of the time that one batch takes; the shares of a profile add up to 1.

    Times are seconds per batch; the quantiles are over batches.
    """

    stage: str
    where: Literal["worker", "consumer"]
    explanation: str
    share: float
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True)
class Resource:
    """How much of a resource is in use, from 0 to 1, and what shows it."""

    name: str
    use: float
    is_exhausted: bool
    evidence: str


@dataclass(frozen=True)
class Prediction:
    """What replaying the recorded batches at a setting gives."""

    setting: Setting
    samples_per_s: float
    stall_share: float
    memory_bytes: int
    cpu_share: float
    is_possible: bool = True


@dataclass(frozen=True)
class Verification:
    """A setting that was run for real, in turn with the loader's own, beside its prediction.

    Gains are against the loader's own setting: as predicted, the median over rounds, and that of
    the round in which it was least.
    """

    setting: Setting
    predicted_samples_per_s: float
    measured_samples_per_s: float
    predicted_stall_share: float
    measured_stall_share: float
    batches: int
    predicted_gain: float = 1.0
    gain: float = 1.0
    least_gain: float = 1.0

    @property
    def error(self) -> float:
        """Prediction over measurement, less one: 0.1 is ten percent too high."""
        return self.predicted_samples_per_s / self.measured_samples_per_s - 1

    @property
    def is_gain(self) -> bool:
        """Whether it is sure to be faster: every round shows it, and the prediction explains it."""
        return min(self.predicted_gain, self.least_gain) >= LEAST_GAIN


@dataclass(frozen=True)
class Fix:
    """One change; `gain` is how many times as many samples per second it gives.

    `basis` says where the gain comes from: a run, the replay of recorded batches, or an estimate.
    """

    title: str
    code: str
    gain: float
    basis: Literal["measured", "replayed", "estimated"]
    reason: str


@dataclass(frozen=True)
class Span:
    """A stretch of one lane of the timeline, in seconds since the timeline's begin.

    `lane` is "consumer" or "worker 0" and so on; `batch` is the number of the batch.
    """

    lane: str
    stage: str
    start_s: float
    end_s: float
    batch: int


@dataclass(frozen=True)
class ProfiledSample:
    """A sample that took long; `times_median` is against the median sample."""

    index: str
    elapsed_s: float
    times_median: float


@dataclass(frozen=True)
class WorkerShare:
    """What one worker did: parts of the time, from 0 to 1, and its memory."""

    worker_id: int
    batches: int
    busy_share: float
    cpu_share: float
    memory_bytes: int


@dataclass(frozen=True)
class Profile:
    """Everything that a profile found.

    Attributes:
        target: what was profiled, as it was named.
        loader: whose class the loader is.
        created: when, in UTC, ISO 8601.
        place: on which machine.
        setting: the loader's own.
        batch_size: samples per batch, as measured.
        batch_bytes: size of the largest batch.
        step: what stood for the consumer, in words.
        budget_s: the time that was allowed.
        elapsed_s: the time that it took.
        verdict: the answer.
        breakdown: where a batch's time goes, in the order in which a batch passes.
        resources: what is exhausted, and what is not.
        what_if: predictions, by workers and prefetch factor.
        recommended: the smallest of the settings that are sure to be faster and as good as the
            best of them; without any, the smallest that is sure to be no slower.
        verified: settings that were run for real.
        fixes: changes, the largest gain first.
        spans: a timeline of workers and consumer, of a few batches.
        workers: what each did at the loader's own setting; empty without workers.
        slowest: samples, the slowest first.
        batches: how many were measured at the loader's own setting.
        warnings: why to mistrust these figures.
    """

    target: str
    loader: Literal["fastload", "torch"]
    created: str
    place: MeasuredOn
    setting: Setting
    batch_size: float
    batch_bytes: int
    step: str
    budget_s: float
    elapsed_s: float
    verdict: InputVerdict
    breakdown: tuple[Share, ...]
    resources: tuple[Resource, ...]
    what_if: tuple[Prediction, ...]
    recommended: Setting
    verified: tuple[Verification, ...]
    fixes: tuple[Fix, ...]
    spans: tuple[Span, ...]
    workers: tuple[WorkerShare, ...]
    slowest: tuple[ProfiledSample, ...]
    batches: int
    warnings: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def own_grid(self) -> tuple[Prediction, ...]:
        """Return the predictions that differ from the loader in workers and prefetching alone."""
        own = self.setting.schedule
        return tuple(each for each in self.what_if if each.setting.schedule == own)

    def prediction(self, setting: Setting) -> Prediction | None:
        """Return the prediction for a setting; None if it is not in the grid."""
        return next((each for each in self.what_if if each.setting == setting), None)

    def to_dict(self) -> dict[str, Any]:
        """Return values that `json` can write."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return one JSON document, indented."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Profile:
        """Make the profile of a document that `to_dict` gave.

        Raises:
            ValueError: The document is not a profile, or one of another version.
        """
        found = document.get("schema_version")
        if found != SCHEMA_VERSION or "verdict" not in document:
            raise ValueError(
                f"this is not a profile that this version of fastload can read: its schema_version "
                f"is {found!r}, expected {SCHEMA_VERSION}. Write it again with: "
                f"fastload profile TARGET --json FILE"
            )
        profile = _build(cls, document)
        assert isinstance(profile, Profile)
        return profile

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Make the profile of a text that `to_json` gave.

        Raises:
            ValueError: It is not JSON, not a profile, or one of another version.
        """
        document = json.loads(text)
        if not isinstance(document, dict):
            kind = type(document).__name__
            raise ValueError(f"a profile is a JSON object, this is a {kind}")  # noqa: TRY004
        return cls.from_dict(document)


def _build(kind: Any, value: Any) -> Any:
    """Turn plain values back into what ``asdict`` made them of."""
    if dataclasses.is_dataclass(kind):
        types_of = typing.get_type_hints(kind)
        known = {field.name for field in dataclasses.fields(kind)}
        fields = {
            name: _build(types_of[name], each) for name, each in value.items() if name in known
        }
        try:
            return kind(**fields)  # type: ignore[operator]  # a class, not an instance
        except TypeError as error:
            raise ValueError(f"this profile is damaged: {error}") from error
    if typing.get_origin(kind) is tuple:
        return tuple(_build(typing.get_args(kind)[0], each) for each in value)
    if typing.get_origin(kind) in {typing.Union, types.UnionType} and value is not None:
        inner = [each for each in typing.get_args(kind) if each is not type(None)]
        return _build(inner[0], value)
    return value
