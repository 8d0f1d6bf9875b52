"""Read back what `fastload bench --json` wrote.

Takes: a file, which may be damaged or may be something else altogether.
Gives: the figures of each workload that has any, and what is needed to judge a comparison.

Nothing in the file is trusted: every value that is used has its type and range checked, and every
text that may be shown is one short line of printable characters.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastload.tools.bench.summary import SCHEMA_VERSION
from fastload.tools.words import one_line

LARGEST_BYTES = 64 << 20
"""A file of results has some hundred kilobytes; a larger one is something else."""

LEAST_FIGURE, LARGEST_FIGURE = 1e-9, 1e15
"""No rate, time or size that was measured lies outside: not in seconds and not in bytes."""

LONGEST_NAME = 80

_MAY_BE_ZERO = ("cpu_s_per_epoch", "peak_memory_bytes")  # CPU time counts in hundredths of a second


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
            is one line that names the file and says what is wrong with it.
    """
    name = one_line(repr(str(path)), 400)
    document = _parse(path, name)
    if not isinstance(document, dict) or "workloads" not in document:
        raise ValueError(
            f"{name} holds no results of a benchmark; make one with: fastload bench "
            f"--json {one_line(path.name)}"
        )
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{name} has schema_version {_shown(document.get('schema_version'))}, this fastload "
            f"reads {SCHEMA_VERSION}: measure again, or compare with the version that wrote it"
        )
    try:
        return _build(path, document)
    except _DamagedError as damage:
        raise ValueError(f"{name} is damaged: {damage}") from None


class _DamagedError(Exception):
    """A value that `fastload bench` does not write; the message says which one."""


def _parse(path: Path, name: str) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        raise ValueError(f"cannot read {name}: {_reason(error)}") from None
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"{name} is larger than {LARGEST_BYTES >> 20} MiB: no benchmark wrote it")
    if not content.strip():
        raise ValueError(f"{name} is not JSON: it is empty")
    try:
        return json.loads(content.decode("utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are
        raise ValueError(f"{name} is not JSON: {one_line(error, 120)}") from None
    except RecursionError:
        raise ValueError(f"{name} is not JSON of a benchmark: it is nested too deeply") from None


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _build(path: Path, document: dict[str, Any]) -> Saved:
    figures: dict[str, Figures] = {}
    failed: dict[str, str] = {}
    for number, entry in enumerate(_value(document, "workloads", list, "the document")):
        name = _text(entry, "workload", f"workload {number}")
        if name in figures or name in failed:
            raise _DamagedError(f"workload {name!r} is there twice")
        if _value(entry, "summary", dict | None, name) is not None:
            figures[name] = _figures(name, entry)
            continue
        failure = _value(entry, "failure", dict | None, name)
        failed[name] = _text(failure, "kind", f"failure of {name}") if failure else "no pair"
    return Saved(
        path=path,
        figures=figures,
        failed=failed,
        machine=_plain(document, "machine"),
        settings=_plain(document, "settings"),
        is_complete=_value(document, "complete", bool, "the document"),
    )


def _figures(name: str, entry: dict[str, Any]) -> Figures:
    summary = entry["summary"]
    candidate = _value(summary, "candidate", dict, f"summary of {name}")
    ratio = _value(summary, "ratio", dict, f"summary of {name}")
    shape = (
        *(_value(entry, key, int, name) for key in ("workers", "batch_size", "samples")),
        _text(entry, "unit", name),
        _value({"same_data": True, **entry}, "same_data", bool, name),
    )
    keys = ("rate", "first_batch_s", "cpu_s_per_epoch", "peak_memory_bytes")
    values = {key: _figure(candidate, key, name, key) for key in keys}
    return Figures(**values, speedup=_figure(ratio, "median", name, "speedup"), shape=shape)


def _figure(holder: dict[str, Any], key: str, workload: str, name: str) -> float:
    value = _value(holder, key, int | float, workload)
    if LEAST_FIGURE <= value <= LARGEST_FIGURE or (value == 0 and name in _MAY_BE_ZERO):
        return float(value)
    raise _DamagedError(f"{name} of {workload} is {_shown(value)}, which cannot be measured")


def _text(holder: Any, key: str, where: str) -> str:
    text: str = _value(holder, key, str, where)
    if not text.isprintable() or not 0 < len(text) <= LONGEST_NAME:
        raise _DamagedError(
            f"{key} of {where} is {_shown(text)}, expected 1 to {LONGEST_NAME} printable characters"
        )
    return text


def _plain(document: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the numbers and texts of an object, which are compared and shown; lists are not."""
    kinds = (str, int, float, bool, type(None))
    holder = _value(document, key, dict, "the document")
    return {name: value for name, value in holder.items() if isinstance(value, kinds)}


def _value(holder: Any, key: str, kind: Any, where: str) -> Any:
    """Return what an object has under a key, if it is of that type: bool is no number here."""
    if not isinstance(holder, dict):
        raise _DamagedError(f"{where} is {_shown(holder)}, expected an object")
    if key not in holder:
        raise _DamagedError(f"{where} has no {key!r}")
    value = holder[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _DamagedError(f"{key} of {where} is {_shown(value)}, which is of the wrong type")
    return value


def _shown(value: Any) -> str:
    """Return a JSON value in at most a few words, without looking into large ones."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and not -(1 << 62) < value < 1 << 62:
        return "a huge number"
    return one_line(repr(value[:LONGEST_NAME] if isinstance(value, str) else value))
