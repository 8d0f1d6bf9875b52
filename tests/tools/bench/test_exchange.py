"""Results in pytest-benchmark's format, read by pytest-benchmark itself."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastload.tools.bench.exchange import to_pytest_benchmark
from fastload.tools.bench.machine import describe_machine
from fastload.tools.bench.results import Failure, LoaderMeasurement, MeasuredRun, WorkloadResult
from fastload.tools.bench.suite import Settings


def result(name: str, unit: Any, rates: dict[str, list[float]], **more: Any) -> WorkloadResult:
    runs = tuple(
        MeasuredRun(number, loader, LoaderMeasurement(rate, 0.1, 0.2, 2, 20, 1.0, 0), 1 << 20, 2.0)
        for loader, of_loader in rates.items()
        for number, rate in enumerate(of_loader)
    )
    return WorkloadResult(name, name, 2, 64, 1000, unit, runs, **more)


RESULTS = (
    result("digits", "samples", {"torch": [640.0, 1280.0], "fastload": [6400.0, 6400.0]}),
    result("short", "epochs", {"torch": [10.0], "fastload": [20.0]}),
    result("broken", "samples", {"torch": [1.0]}, failure=Failure("raised", "no")),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What `fastload bench --pytest-benchmark-json` writes of RESULTS."""
    path = tmp_path / "0001_results.json"
    document = to_pytest_benchmark(Settings(workloads=()), RESULTS, describe_machine())
    path.write_text(json.dumps(document))
    return path


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_benchmark", "compare", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pytest_benchmark_reads_it(file: Path) -> None:
    """Its own `compare` shows a group for each workload, with a row for each loader."""
    answer = compare(str(file), "--group-by=group")
    assert answer.returncode == 0, answer.stderr
    assert "benchmark 'digits': 2 tests" in answer.stdout
    assert "benchmark 'short': 2 tests" in answer.stdout
    assert "digits[fastload]" in answer.stdout
    assert "broken" not in answer.stdout
    assert answer.stderr == ""


def test_times_are_those_of_a_batch_or_an_epoch(file: Path, tmp_path: Path) -> None:
    """As pytest-benchmark tells them in its CSV: 64 samples at 6,400 a second take 10 ms."""
    table = tmp_path / "table.csv"
    assert compare(str(file), f"--csv={table}").returncode == 0
    rows = {row["name"]: row for row in csv.DictReader(table.read_text().splitlines())}
    name = "fastload bench::"
    assert float(rows[f"{name}digits[fastload]"]["median"]) == 0.01
    assert float(rows[f"{name}digits[torch]"]["max"]) == 0.1
    assert float(rows[f"{name}digits[torch]"]["min"]) == 0.05
    assert float(rows[f"{name}short[fastload]"]["mean"]) == 0.05
    assert int(rows[f"{name}digits[torch]"]["rounds"]) == 2


def test_two_files_are_compared_name_by_name(file: Path) -> None:
    """Grouped by name, the same workload of two files stands side by side."""
    other = file.with_name("0002_results.json")
    other.write_text(file.read_text())
    answer = compare(str(file), str(other), "--group-by=fullname")
    assert answer.returncode == 0, answer.stderr
    assert "benchmark 'fastload bench::digits[torch]': 2 tests" in answer.stdout
