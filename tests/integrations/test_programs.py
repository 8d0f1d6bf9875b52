"""Programs written for torch's DataLoader print the same under `fastload run`, unmodified."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
LIMIT_S = 240


def start(*arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


def both_ways(*arguments: str, cwd: Path | None = None) -> list[tuple[str, str, int]]:
    """Output, errors and exit code of a plain run and of one under `fastload run`, side by side."""
    runs = [
        start(*arguments, cwd=cwd),
        start("-m", "fastload", "run", *arguments, cwd=cwd),
    ]
    ended = [run.communicate(timeout=LIMIT_S) for run in runs]
    return [
        (output, errors, run.returncode) for run, (output, errors) in zip(runs, ended, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "batches"),
    [
        ("plain", ("--workers", "2"), 17),
        pytest.param("with_accelerate", (), 20, marks=pytest.mark.exhaustive),
        pytest.param("with_lightning", (), 24, marks=pytest.mark.exhaustive),
        ("with_transformers", ("1",), 17),
        ("with_torchdata", (), 4),
    ],
)
def test_program_prints_the_same(name, arguments, batches) -> None:
    """Every loss, every batch, every random number after them; and a summary to stderr."""
    needs = name.removeprefix("with_") if name.startswith("with_") else "torch"
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    plain, ours = both_ways(str(PROGRAMS / f"{name}.py"), *arguments)
    assert plain[2] == 0, plain[1]
    assert ours[2] == 0, ours[1]
    assert ours[0] == plain[0]
    assert ours[0].count("\n") > 5
    [loaded] = re.findall(r"^fastload: (\d+) batches, ", ours[1], re.MULTILINE)
    assert int(loaded) >= batches


@pytest.mark.exhaustive
def test_module_in_a_package_runs_as_by_python() -> None:
    """With -m, its package's folder on the path and its arguments passed on."""
    plain, ours = both_ways(
        "-m", "programs.plain", "--workers", "2", "--persistent", cwd=PROGRAMS.parent
    )
    assert plain[2] == ours[2] == 0, ours[1]
    assert ours[0] == plain[0]
    assert ours[0].startswith("['--workers', '2', '--persistent'] __main__ True")
    assert "fastload: 17 batches, " in ours[1]
