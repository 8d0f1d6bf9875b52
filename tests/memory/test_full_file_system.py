"""Without memfd, on a file system that is nearly full: an error or the pipe, never SIGBUS."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, tempfile
del os.memfd_create
tempfile.tempdir = sys.argv[1]
import torch, fastload
from fastload._memory.shared_bytes import SharedBytes

class Samples(torch.utils.data.Dataset):
    def __len__(self): return 24
    def __getitem__(self, index): return torch.full((1 << 18,), float(index))

loader = fastload.DataLoader(Samples(), batch_size=1, num_workers=2)
for _ in range(2):
    assert [int(batch[0, -1]) for batch in loader] == list(range(24))
try:
    SharedBytes.of([bytes(1 << 26)])
except OSError as error:
    assert sys.argv[1] in str(error), error
    print("whole")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
@pytest.mark.parametrize("size", ["16k", "3m", "9m"])
def test_slots_on_a_file_system_that_fills_up_kill_nobody(tmp_path, size: str) -> None:
    """What has no room goes by pipe; where nothing else is left, the error names the folder."""
    script = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    found = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, tmp_path, sys.executable, "-c", PROGRAM, tmp_path],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert (found.returncode, found.stdout) == (0, "whole\n"), found.stderr
