"""A damaged shard is an error that names it: no crash, no hang, no end that is none."""

from __future__ import annotations

import collections
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets.damage_tar import KINDS

ROOT = Path(__file__).parents[2]

ALLOWED = {
    "plain": {"refused", "unchanged", "content"},
    "indexed": {"refused", "unchanged"},
    "gzip": {"refused", "unchanged"},
    "forged": {"refused", "unchanged", "other"},
}


@pytest.mark.parametrize("files", [15, pytest.param(125, marks=pytest.mark.exhaustive)])
def test_no_damage_of_a_shard_is_silent(files: int) -> None:
    """Of many with flipped bits, without their ends, or with forged headers."""
    command = [sys.executable, "-m", "tests.datasets.damage_tar", str(files), *KINDS]
    child = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=250
    )
    lines = [line.split(" ", 3) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"died of {lines[-1:]}: {child.stderr}"
    for kind in KINDS:
        outcomes = collections.Counter(line[2] for line in lines if line[0] == kind)
        assert outcomes.keys() <= ALLOWED[kind], [line for line in lines if line[0] == kind]
        assert outcomes.total() == files
        assert outcomes["refused"] >= files / 10
