"""Write results in pytest-benchmark's format, for `pytest-benchmark compare` and what reads it.

Takes: results of the suite.
Gives: a document with one benchmark per workload and loader, in a group per workload. Times are
    seconds per batch, or per epoch where whole epochs are counted; one value per run.

The statistics are computed by pytest-benchmark's own class, so that they mean what they mean there.
"""

from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

from fastload.tools.bench.machine import Machine
from fastload.tools.bench.results import MeasuredRun, WorkloadResult
from fastload.tools.bench.suite import Settings


def to_pytest_benchmark(
    settings: Settings, results: Sequence[WorkloadResult], machine: Machine
) -> dict[str, Any]:
    """Return the document; workloads that failed are left out, as pytest-benchmark does.

    Raises:
        ModuleNotFoundError: pytest-benchmark is not installed.
    """
    return {
        "machine_info": {
            "node": "",
            "processor": machine.processor,
            "machine": machine.system,
            "python_version": machine.python,
            "system": machine.system.partition("-")[0],
            "cpu": {"brand_raw": machine.processor, "count": machine.cores},
        },
        "commit_info": {
            "id": (machine.commit or "").rstrip("+"),
            "dirty": (machine.commit or "").endswith("+"),
            "project": "fastload",
        },
        "benchmarks": [
            _benchmark(result, loader, runs)
            for result in results
            if result.failure is None
            for loader in (settings.baseline, settings.candidate)
            if (runs := [run for run in result.runs if run.loader == loader])
        ],
        "datetime": datetime.now(timezone.utc).isoformat(),
        "version": version("pytest-benchmark"),
    }


def _benchmark(result: WorkloadResult, loader: str, runs: Sequence[MeasuredRun]) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    units = result.batch_size if result.unit == "samples" else 1
    stats: Any = Stats()  # type: ignore[no-untyped-call]
    for run in runs:
        stats.update(units / run.measurement.rate)
    name = f"{result.workload}[{loader}]"
    return {
        "group": result.workload,
        "name": name,
        "fullname": f"fastload bench::{name}",
        "params": {"loader": loader},
        "param": loader,
        "extra_info": {
            "workers": result.workers,
            "batch_size": result.batch_size,
            "samples": result.samples,
            "same_data": result.same_data,
            "unit": "batch" if result.unit == "samples" else "epoch",
            "rates": [run.measurement.rate for run in runs],
        },
        "options": {},
        "stats": {**stats.as_dict(), "data": stats.data, "iterations": 1},
    }
