"""Run workloads: verify all, then measure baseline and candidate in turn, one process at a time.

Runs in: the parent, which only waits meanwhile.
Takes: `Settings`.
Gives: one `WorkloadResult` per workload, as soon as it is there.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fastload.tools.bench.child import Child, Finished
from fastload.tools.bench.results import (
    EqualityVerdict,
    Failure,
    LoaderMeasurement,
    MeasuredRun,
    WorkloadResult,
)
from fastload.tools.bench.workload import Workload

_START_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run and how.

    Attributes:
        workloads: in this order.
        workers: for workloads without a number of their own.
        rounds: pairs of measurements per workload.
        quick: small epochs and short measurements.
        limit_s: time limit of every single process, once it has started.
        baseline: the loader to compare with, taken as right.
        candidate: the loader that is judged: `fastload` or `module:attribute`.
    """

    workloads: tuple[Workload, ...]
    workers: int = 2
    rounds: int = 3
    quick: bool = False
    limit_s: float = 120.0
    baseline: str = "torch"
    candidate: str = "fastload"

    @property
    def steps(self) -> int:
        """How many times `run_suite` will call `on_step`."""
        return len(self.workloads) * (1 + self.rounds)


def run_suite(
    settings: Settings, on_step: Callable[[str], None] = lambda _: None
) -> Iterator[WorkloadResult]:
    """Run the suite.

    Args:
        settings: what to run and how.
        on_step: called with a few words after each comparison and each round, done or left out.
    """
    verdicts: dict[str, EqualityVerdict] = {}
    for verdict in _verify(settings):
        verdicts[verdict.workload] = verdict
        on_step(f"{verdict.workload}: verified")
    for workload in settings.workloads:
        result = _empty_result(workload, settings)
        failure = _verdict_failure(verdicts[workload.name], settings)
        yield _measure_rounds(replace(result, failure=failure), settings, on_step)


def _verify(settings: Settings) -> Iterator[EqualityVerdict]:
    """Verify all in one process; go on in a new one after a workload that ended or hung it."""
    remaining = [workload.name for workload in settings.workloads]
    while remaining:
        workers = ("--workers", str(settings.workers))
        loaders = (settings.baseline, settings.candidate)
        with Child(_module("verify", *loaders, *remaining, *workers)) as child:
            child.await_ready(_START_LIMIT_S)
            finished = child.finish(settings.limit_s)
        verdicts = [EqualityVerdict(**line) for line in _json_lines(finished.stdout)]
        yield from verdicts
        remaining = remaining[len(verdicts) :]
        if remaining and not (finished.overran and verdicts):
            yield EqualityVerdict(remaining.pop(0), error=finished.stderr, overran=finished.overran)


def _measure_rounds(
    result: WorkloadResult, settings: Settings, on_step: Callable[[str], None]
) -> WorkloadResult:
    """Measure in pairs, until something fails."""
    for number in range(settings.rounds):
        if result.failure is None:
            for outcome in _measure_pair(result.workload, number, settings):
                if isinstance(outcome, MeasuredRun):
                    result = replace(result, runs=(*result.runs, outcome))
                else:
                    result = replace(result, failure=outcome)
        on_step(f"{result.workload}: round {number + 1} of {settings.rounds}")
    return result


def _measure_pair(
    workload: str, number: int, settings: Settings
) -> Iterator[MeasuredRun | Failure]:
    """Measure both loaders once, each in a fresh process: both import first, then each its turn."""
    options = ["--workers", str(settings.workers), *(["--quick"] if settings.quick else [])]
    loaders = (settings.baseline, settings.candidate)
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(Child(_module("measure", workload, loader, *options)))
            for loader in loaders
        ]
        for child in children:
            child.await_ready(_START_LIMIT_S)
        for loader, child in zip(loaders, children, strict=True):
            yield _judge(loader, number, child.finish(settings.limit_s), settings)


def _judge(
    loader: str, number: int, finished: Finished, settings: Settings
) -> MeasuredRun | Failure:
    if finished.overran:
        return Failure("overran", f"{loader} took more than {settings.limit_s:g} s and was killed")
    lines = _json_lines(finished.stdout)
    if finished.returncode != 0 or not lines:
        return Failure("raised", _last_words(loader, finished))
    measurement = LoaderMeasurement(**lines[-1])
    return MeasuredRun(number, loader, measurement, finished.peak_memory_bytes, finished.elapsed_s)


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"fastload.tools.bench.{name}", *arguments]


def _json_lines(stdout: str) -> list[dict[str, Any]]:
    """Return the JSON objects among the lines printed; a dataset may print other things."""
    return [json.loads(line) for line in stdout.splitlines() if line.startswith('{"')]


def _last_words(loader: str, finished: Finished) -> str:
    return f"{finished.stderr.strip()}\n{loader} ended with exit code {finished.returncode}".strip()


def _verdict_failure(verdict: EqualityVerdict, settings: Settings) -> Failure | None:
    if verdict.difference is not None:
        return Failure(
            "unequal",
            f"{settings.candidate} does not give {settings.baseline}'s batches: "
            f"{verdict.difference}",
        )
    if verdict.overran:
        limit = f"{settings.limit_s:g} s"
        return Failure("overran", f"comparing batches took more than {limit} and was killed")
    if verdict.error is not None:
        return Failure("raised", verdict.error.strip() or "the comparison of batches died")
    return None


def _empty_result(workload: Workload, settings: Settings) -> WorkloadResult:
    recipes = {workload.recipe_for(name) for name in (settings.baseline, settings.candidate)}
    return WorkloadResult(
        workload=workload.name,
        description=workload.description,
        workers=workload.workers_given(settings.workers),
        batch_size=workload.batch_size,
        samples=workload.samples_given(quick=settings.quick),
        unit=workload.unit,
        same_data=len(recipes) == 1,
    )
