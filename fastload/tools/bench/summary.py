"""Condense results: one summary per workload, one document with everything."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fastload.tools.bench.machine import Machine
from fastload.tools.bench.ratios import Ratio, compare, geometric_mean
from fastload.tools.bench.results import MeasuredRun, WorkloadResult
from fastload.tools.bench.suite import Settings

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class LoaderSummary:
    """Medians over the runs of one loader."""

    rate: float
    first_batch_s: float
    cpu_s_per_epoch: float
    peak_memory_bytes: float


@dataclass(frozen=True, slots=True)
class WorkloadSummary:
    """Both loaders on one workload."""

    workload: str
    workers: int
    unit: Literal["samples", "epochs"]
    same_data: bool
    baseline: LoaderSummary
    candidate: LoaderSummary
    ratio: Ratio


def summarize(result: WorkloadResult, settings: Settings) -> WorkloadSummary | None:
    """Condense the complete pairs of a workload; None if it failed or has none."""
    baseline = [run for run in result.runs if run.loader == settings.baseline]
    candidate = [run for run in result.runs if run.loader == settings.candidate]
    if result.failure is not None or not candidate:
        return None
    baseline = baseline[: len(candidate)]
    return WorkloadSummary(
        result.workload,
        result.workers,
        result.unit,
        result.same_data,
        _medians(baseline),
        _medians(candidate),
        compare(_rates(baseline), _rates(candidate)),
    )


def mean_ratios(summaries: Sequence[WorkloadSummary], *, workers: int) -> dict[str, float | None]:
    """Return geometric means of the ratios.

    Args:
        summaries: of the workloads.
        workers: as the user asked for; other workloads have a number of their own, mostly none.

    Returns:
        `drop_in`: of those with workers and the same dataset and collate function for both
        loaders, so what a change of the import gives; `with_workers`: of those and the ones where
        fastload's own are compared with the usual ones; `all`: of all. None where there are none.
    """
    with_workers = [summary for summary in summaries if summary.workers == workers]
    chosen = {
        "drop_in": [summary for summary in with_workers if summary.same_data],
        "with_workers": with_workers,
        "all": summaries,
    }
    return {
        name: geometric_mean([summary.ratio.median for summary in each])
        for name, each in chosen.items()
    }


def to_document(
    settings: Settings, results: Sequence[WorkloadResult], machine: Machine, *, complete: bool
) -> dict[str, Any]:
    """Return everything known as values that `json` can write.

    Args:
        settings: what was run.
        results: what came of it.
        machine: where.
        complete: False where the suite was interrupted.
    """
    summaries = {result.workload: summarize(result, settings) for result in results}
    known = [summary for summary in summaries.values() if summary is not None]
    return {
        "schema_version": SCHEMA_VERSION,
        "complete": complete,
        "machine": asdict(machine),
        "settings": {
            **asdict(settings),
            "workloads": [workload.name for workload in settings.workloads],
        },
        "workloads": [
            {**asdict(result), "summary": _as_dict(summaries[result.workload])}
            for result in results
        ],
        "geometric_mean": mean_ratios(known, workers=settings.workers),
    }


def _as_dict(summary: WorkloadSummary | None) -> dict[str, Any] | None:
    return None if summary is None else asdict(summary)


def _rates(runs: Sequence[MeasuredRun]) -> list[float]:
    return [run.measurement.rate for run in runs]


def _medians(runs: Sequence[MeasuredRun]) -> LoaderSummary:
    return LoaderSummary(
        rate=statistics.median(_rates(runs)),
        first_batch_s=statistics.median(run.measurement.first_batch_s for run in runs),
        cpu_s_per_epoch=statistics.median(run.measurement.cpu_s_per_epoch for run in runs),
        peak_memory_bytes=statistics.median(run.peak_memory_bytes for run in runs),
    )
