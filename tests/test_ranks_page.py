"""The programs of docs/ranks.md run under torchrun, as the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.training.test_interrupted import environment

PAGE = Path(__file__).parents[1] / "docs" / "ranks.md"
PROGRAMS = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
LIMIT_S = 120


def run(tmp_path, program, ranks, *arguments):
    """The lines that each rank prints."""
    file = tmp_path / "program.py"
    file.write_text(program)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={ranks}", "--redirects=1", f"--log-dir={tmp_path}"),
            *(str(file), *arguments),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return [log.read_text().splitlines() for log in sorted(tmp_path.rglob("stdout.log"))]


@pytest.mark.parametrize("way", ["torchs_sampler", "shard", "seeded"])
def test_ranks_see_each_sample_once_an_epoch(tmp_path, way) -> None:
    """Reshuffled, in equally many steps: of 101 samples, at most one step is filled up."""
    first, second = run(tmp_path, PROGRAMS[0], 2, way)
    assert len(first) == len(second) == 2
    epochs = []
    for lines in zip(first, second, strict=True):
        ranks = [
            [int(number) for number in line[3:].partition("]")[0].split(",")] for line in lines
        ]
        assert len({-(-len(rank) // 8) for rank in ranks}) == 1
        assert set(ranks[0]) | set(ranks[1]) == set(range(101))
        assert len(ranks[0]) + len(ranks[1]) < 101 + 2 * 8
        epochs.append(ranks)
    assert epochs[0] != epochs[1]


def test_ranks_with_unequal_steps_join(tmp_path) -> None:
    """The rank with less answers until the other one is done."""
    assert run(tmp_path, PROGRAMS[1], 2) == [["3"], ["2"]]


def test_page_has_no_other_programs() -> None:
    """Each of them is run here."""
    assert len(PROGRAMS) == 2
