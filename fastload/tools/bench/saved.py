"""Read back what `fastload bench --json` wrote.

Takes: a file.
Gives: the figures of each workload that has any, and what is needed to judge a comparison.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastload.tools.bench.report import SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Figures:
    """One workload of one file: the candidate's medians.

    Attributes:
        rate: units per second.
        speedup: times the baseline's rate, the median of the pairs of that run.
        first_batch_s: from `iter(loader)` to the first batch.
        cpu_s_per_epoch: user and system time.
        peak_memory_bytes: of the whole process tree.
        shape: what was loaded: workers, batch size, samples, unit, and whether both loaders had
            the same data; files of before that was told had no others.
    """

    rate: float
    speedup: float
    first_batch_s: float
    cpu_s_per_epoch: float
    peak_memory_bytes: float
    shape: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Saved:
    """One file of results.

    Attributes:
        path: where it was read.
        figures: by workload, in the order of the file.
        failed: workloads that have none, and why.
        machine: what it was measured on.
        settings: what was run.
        is_complete: False where the run was interrupted.
    """

    path: Path
    figures: Mapping[str, Figures]
    failed: Mapping[str, str]
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    is_complete: bool


def read_saved(path: Path) -> Saved:
    """Read a file of results.

    Raises:
        ValueError: it can't be read, or is not what `fastload bench --json` writes; the message
            names the file and what is wrong with it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(document, dict) or "workloads" not in document:
        raise ValueError(
            f"{str(path)!r} holds no results of a benchmark; make one with: fastload bench "
            f"--json {path.name}"
        )
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{str(path)!r} has schema_version {document.get('schema_version')!r}, this fastload "
            f"reads {SCHEMA_VERSION}: measure again, or compare with the version that wrote it"
        )
    try:
        return _build(path, document)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {type(error).__name__}: {error}") from None


def _build(path: Path, document: dict[str, Any]) -> Saved:
    figures, failed = {}, {}
    for entry in document["workloads"]:
        name = str(entry["workload"])
        if entry["summary"] is not None:
            figures[name] = _figures(path, entry)
        else:
            failed[name] = entry["failure"]["kind"] if entry["failure"] else "no pair"
    return Saved(
        path=path,
        figures=figures,
        failed=failed,
        machine=dict(document["machine"]),
        settings=dict(document["settings"]),
        is_complete=bool(document["complete"]),
    )


def _figures(path: Path, entry: dict[str, Any]) -> Figures:
    summary = entry["summary"]
    candidate = summary["candidate"]
    names = ("rate", "first_batch_s", "cpu_s_per_epoch", "peak_memory_bytes")
    values = {name: float(candidate[name]) for name in names}
    values["speedup"] = float(summary["ratio"]["median"])
    for name, value in values.items():
        # CPU time may be 0: it is counted in hundredths of a second.
        if not math.isfinite(value) or value < 0 or (value == 0 and name in {"rate", "speedup"}):
            raise ValueError(f"{str(path)!r} is damaged: {name} of {entry['workload']} is {value}")
    shape = tuple(entry[name] for name in ("workers", "batch_size", "samples", "unit"))
    return Figures(**values, shape=(*shape, bool(entry.get("same_data", True))))
