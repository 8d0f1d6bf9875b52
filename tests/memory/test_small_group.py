"""Large batches in a memory control group: the kernel kills nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastload._system.cgroups import V1, V2, groups

LIMIT_BYTES = 950 << 20
PROGRAM = """
import sys
import torch
import fastload

class Large:
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.full((100 << 18,), float(index))

if __name__ == "__main__":
    loader = fastload.DataLoader(Large(), 1, num_workers=2)
    print([batch[0, -1].item() for batch in loader])
"""
ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


@pytest.fixture
def small_group() -> Iterator[Path]:
    """The folder of a new memory group, where the machine lets us make one."""
    for folder, is_v2 in reversed(groups("memory")):
        group = folder / f"fastload-test-{uuid.uuid4().hex}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            limit = group / (V2 if is_v2 else V1)[0]
            if not limit.exists():  # where no controller is, or this is no control group at all
                continue
            limit.write_text(str(LIMIT_BYTES))
            subprocess.run(["sh", "-c", ENTER, group, "true"], check=True, capture_output=True)
            yield group
        except (OSError, subprocess.CalledProcessError):
            continue
        else:
            return
        finally:
            group.rmdir()
    pytest.skip("no memory control group with a limit can be made here: that needs root, mostly")


@pytest.mark.exhaustive
def test_batches_of_100_mib_fit_into_a_group_of_950(small_group: Path, tmp_path: Path) -> None:
    """With two workers and what is loaded ahead by default; torch's loader does it, too."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        ["sh", "-c", ENTER, small_group, sys.executable, program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([float(index) for index in range(12)])
