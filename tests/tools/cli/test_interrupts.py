"""Ctrl-C at any command: exit code 130, a word, and nobody left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fastload.tools.cli.exits import Exit

ROOT = Path(__file__).parents[3]

SLOW = """
import os
import pathlib
import time
import torch.utils.data

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        pathlib.Path(__file__).with_name(f"{os.getpid()}.loading").touch()
        time.sleep(0.01)
        return index

loader = torch.utils.data.DataLoader(Slow(), batch_size=4, num_workers=2)

if __name__ == "__main__":
    for batch in loader:
        pass
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "fastload", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def interrupt(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C: every process of the terminal's group gets it. Returns what it says."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert not psutil.wait_procs(children, timeout=60)[1]
    return err


def await_workers(process: subprocess.Popen[str], folder: Path | None) -> None:
    """Until two were forked; or, of torch's loader too, until both load and mark that in a folder.

    torch's workers print a traceback if they are interrupted before they are ready.
    """
    me = psutil.Process(process.pid)
    while len([*folder.glob("*.loading")] if folder else me.children()) < 2:
        assert process.poll() is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--workers", "2", "--epochs", "10000"),
        ("profile", "{file}:loader", "--budget", "60"),
    ],
)
def test_interrupt_ends_command_and_workers(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """While workers load; of our own traceback, which is nobody's concern, nothing is shown."""
    file = tmp_path / "slow.py"
    file.write_text(SLOW)
    process = start(*(argument.format(file=file) for argument in arguments))
    await_workers(process, tmp_path if arguments[0] == "profile" else None)
    err = interrupt(process)
    assert process.returncode == Exit.INTERRUPTED, err
    assert "interrupted" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("options", [(), ("--live",)])
def test_interrupted_program_shows_its_traceback(options: tuple[str, ...], tmp_path: Path) -> None:
    """As under Python: where the program was, and none of our frames; the summary follows."""
    file = tmp_path / "slow.py"
    file.write_text(SLOW)
    process = start("run", *options, str(file))
    await_workers(process, None)
    err = interrupt(process)
    assert process.returncode == Exit.INTERRUPTED, err
    *_, trace, summary = err.partition("Traceback (most recent call last)")[2].splitlines()
    assert trace == "KeyboardInterrupt"
    assert summary.startswith("fastload: ")
    assert f'File "{file}"' in err
    assert "runpy" not in err
    assert "tools/cli" not in err


def test_interrupt_ends_the_doctor() -> None:
    """While it imports torch."""
    process = start("doctor")
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text():
        assert process.poll() is None
    err = interrupt(process)
    assert process.returncode == Exit.INTERRUPTED, err
    assert err.endswith("interrupted\n")
