"""`fastload run`: an unmodified program gets our loader and ends as it would alone."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import torch
import torch.utils.data
from torch.utils.data import DataLoader, TensorDataset

if __name__ == "__main__":
    torch.manual_seed(0)
    dataset = TensorDataset(torch.arange(64.0))
    loader = DataLoader(dataset, batch_size=8, shuffle=True, num_workers=int(sys.argv[1]))
    print([row for batch, in loader for row in batch.tolist()])
    print(torch.utils.data.DataLoader.__module__ if "--tell" in sys.argv else "", sys.argv[1:])
    if "--fail" in sys.argv:
        raise ValueError("the program's own")
    sys.exit(7 if "--seven" in sys.argv else 0)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_program_prints_what_it_prints_alone(program, workers):
    """Same batches, same order, same arguments."""
    alone = run(str(program), workers, "--seed", "3")
    ours = run("-m", "fastload", "run", str(program), workers, "--seed", "3")
    assert ours.stdout == alone.stdout
    assert ours.returncode == 0, ours.stderr
    assert "8 batches, 64 samples" in ours.stderr


def test_program_gets_our_loader(program):
    """The names were replaced before the program imported them."""
    ours = run("-m", "fastload", "run", str(program), "0", "--tell")
    assert ours.stdout.splitlines()[1].startswith("fastload.dataloader")
    assert "torch.utils.data.DataLoader" in ours.stderr


def test_module_is_run_as_by_python(program):
    """With -m, from the folder it lies in."""
    ours = run("-m", "fastload", "run", "-m", "program", "0", cwd=program.parent)
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == run("-m", "program", "0", cwd=program.parent).stdout


def test_exit_code_of_the_program_is_kept(program):
    """Also one that is not zero; the summary is printed all the same."""
    ours = run("-m", "fastload", "run", str(program), "0", "--seven")
    assert ours.returncode == 7
    assert "64 samples" in ours.stderr


def test_program_that_raises_shows_its_own_frames_only(program):
    """Whoever reads the traceback looks for a fault in the program."""
    ours = run("-m", "fastload", "run", str(program), "0", "--fail")
    assert ours.returncode == 3
    assert "ValueError: the program's own" in ours.stderr
    assert "runpy" not in ours.stderr
    assert "cli" not in ours.stderr


def test_missing_program_is_a_usage_error(tmp_path):
    """Said in a line."""
    ours = run("-m", "fastload", "run", str(tmp_path / "nothing.py"))
    assert ours.returncode == 2
    assert ours.stderr.splitlines() == [f"fastload run: no such file: {tmp_path / 'nothing.py'}"]
