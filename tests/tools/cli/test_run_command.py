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


SPAWNING = """
import sys
import torch.utils.data

class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index * index

if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(
        Squares(), batch_size=2, num_workers=1, multiprocessing_context=sys.argv[1]
    )
    print(type(loader).__module__)
    print([batch.tolist() for batch in loader])
"""

OURS = ("-m", "fastload", "run")


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


def test_programs_text_for_exit_is_an_error_in_its_words(tmp_path):
    """As by Python: the text goes to stderr, the code is 1."""
    path = tmp_path / "program.py"
    path.write_text("import sys\nsys.exit('not today')\n")
    ours = run("-m", "fastload", "run", str(path))
    assert ours.returncode == run(str(path)).returncode == 1
    assert "not today" in ours.stderr.splitlines()


@pytest.mark.parametrize("arguments", [["--help"], ["-m", "x"], ["--", "a b", ""], ["--json=3"]])
def test_arguments_pass_through_untouched(tmp_path, arguments):
    """Also those that our own command line would understand."""
    path = tmp_path / "program.py"
    path.write_text("import sys\nprint(sys.argv)\n")
    ours = run("-m", "fastload", "run", str(path), *arguments)
    assert ours.stdout == run(str(path), *arguments).stdout


def test_path_and_name_are_those_of_a_plain_run(tmp_path):
    """Neighbours can be imported, what lies in the current folder only if it is theirs."""
    path = tmp_path / "program.py"
    path.write_text("import sys\nprint(__name__, __file__, sys.path, sys.argv[0])\n")
    for arguments in ([str(path)], ["-m", "program"]):
        ours, alone = (run(*way, *arguments, cwd=tmp_path) for way in (OURS, ()))
        assert ours.stdout == alone.stdout


@pytest.mark.parametrize(
    ("method", "as_module"), [("spawn", False), ("forkserver", False), ("spawn", True)]
)
def test_workers_of_a_program_are_started_by_its_method(tmp_path, method, as_module):
    """A dataset that the script defines is found by processes that start anew."""
    path = tmp_path / "program.py"
    path.write_text(SPAWNING)
    arguments = ["-m", "program"] if as_module else [str(path)]
    ours = run(*OURS, *arguments, method, cwd=tmp_path)
    assert ours.stdout.splitlines() == ["fastload.dataloader", "[[0, 1], [4]]"], ours.stderr
    assert ours.returncode == 0


def test_interrupted_program_ends_as_interrupted(tmp_path):
    """Ctrl-C is the program's; nothing but its exit code is ours."""
    path = tmp_path / "program.py"
    path.write_text("raise KeyboardInterrupt\n")
    assert run(*OURS, str(path)).returncode == 130


@pytest.mark.parametrize("arguments", [["-m", "no_such_module"], ["-m", "json"]])
def test_module_that_cannot_be_run_says_so(arguments):
    """A package without a main module, or none at all."""
    ours = run(*OURS, *arguments)
    assert ours.returncode == 3
    assert arguments[1] in ours.stderr.splitlines()[-2]


def test_no_program_is_a_usage_error():
    """Said in a line, too."""
    ours = run(*OURS)
    assert ours.returncode == 2
    assert "which program?" in ours.stderr


def test_missing_program_is_a_usage_error(tmp_path):
    """Said in a line."""
    ours = run("-m", "fastload", "run", str(tmp_path / "nothing.py"))
    assert ours.returncode == 2
    assert ours.stderr.splitlines() == [f"fastload run: no such file: {tmp_path / 'nothing.py'}"]
