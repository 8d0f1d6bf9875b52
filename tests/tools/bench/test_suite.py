from pathlib import Path

import psutil
import pytest

from fastload.tools.bench.catalogue import find
from fastload.tools.bench.suite import Settings, run_suite
from tests.tools.bench import loaders


@pytest.fixture(autouse=True)
def _faulty_loaders_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


def run_one(candidate, workload="tiny-tensor-inline", limit_s=30.0):
    name = f"tests.tools.bench.loaders:{candidate}"
    settings = Settings((find(workload),), rounds=1, quick=True, limit_s=limit_s, candidate=name)
    steps = []
    (result,) = run_suite(settings, steps.append)
    assert len(steps) == settings.steps
    return result


def test_loader_with_unequal_batches_is_not_measured():
    """A loader that gives other batches than torch's is told so, and gets no figures."""
    result = run_one("Swapped")
    assert result.failure.kind == "unequal"
    assert "epoch 0, batch 0[0] differs in" in result.failure.message
    assert result.runs == ()


def test_loader_that_raises_is_reported():
    """What a loader raises is in the result, with its traceback."""
    result = run_one("Raising")
    assert result.failure.kind == "raised"
    assert result.failure.message.endswith("RuntimeError: this loader does not load")


def test_loader_that_hangs_is_killed_and_reported(tmp_path, monkeypatch):
    """A measurement that takes too long ends with all its processes; torch's figures stay."""
    file = tmp_path / "pids"
    monkeypatch.setenv(loaders.PIDS_FILE, str(file))
    limit_s = 4.0
    while not (result := run_one("HangingWhenMeasured", limit_s=limit_s)).runs:
        limit_s *= 3  # the machine is so busy that torch's loader took as long
    assert result.failure.kind == "overran"
    assert f"took more than {limit_s:.0f} s and was killed" in result.failure.message
    assert [run.loader for run in result.runs] == ["torch"]
    assert not any(psutil.pid_exists(int(pid)) for pid in file.read_text().split())
