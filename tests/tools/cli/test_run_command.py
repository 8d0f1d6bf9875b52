"""`fastload run`: an unmodified program gets our loader and ends as it would alone.

Programs run inside the test's own process, but where the start of workers, a signal, or what
Python itself does is the question.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fastload.tools.cli import main
from fastload.tools.cli.exits import Exit

PROGRAM = """
import sys
import zipfile
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
import zipfile
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


class Ended(NamedTuple):
    """How a program that ran in this process ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def run_here(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run the command in this process, from the folder of the program."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ended:
        code = main(["run", *arguments])
        for name in ("program", "package", "package.inner"):
            sys.modules.pop(name, None)
        return Ended(code, *capfd.readouterr())

    return run


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_program_prints_what_it_prints_alone(run_here: Run, program: Path, workers: str) -> None:
    """Same batches, same order, same arguments."""
    torch.manual_seed(0)
    dataset = TensorDataset(torch.arange(64.0))
    loader = DataLoader(dataset, batch_size=8, shuffle=True, num_workers=int(workers))
    rows = [row for (batch,) in loader for row in batch.tolist()]
    ours = run_here(str(program), workers, "--seed", "3")
    assert ours.out.splitlines() == [str(rows), f" {[workers, '--seed', '3']}"]
    assert ours.code == 0, ours.err
    assert "fastload: 8 batches, 64 samples in 1 epoch; " in ours.err


def test_program_gets_our_loader(run_here: Run, program: Path) -> None:
    """The names were replaced before the program imported them, and are put back after it."""
    before = torch.utils.data.DataLoader
    ours = run_here(str(program), "0", "--tell")
    assert ours.out.splitlines()[1].startswith("fastload.dataloader")
    assert "torch.utils.data.DataLoader" in ours.err
    assert torch.utils.data.DataLoader is before


def test_ranks_on_one_machine_are_counted(
    run_here: Run, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share its cores and its memory, and each line says which of them writes it."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    ours = run_here(str(program), "0")
    assert "; 4 ranks share this machine (LOCAL_WORLD_SIZE): each has " in ours.err
    assert ours.err.startswith("[rank 3] fastload: replaced ")


@pytest.mark.parametrize("module", ["program", "package.program"])
def test_module_is_run_as_by_python(run_here: Run, program: Path, module: str) -> None:
    """With -m, from the folder it lies in or that its package lies in."""
    (program.parent / "package").mkdir()
    shutil.copy(program, program.parent / "package")
    ours = run_here("-m", module, "0")
    sys.modules.pop("package.program", None)
    assert ours.code == 0, ours.err
    assert ours.out == run_here(str(program), "0").out


def test_exit_code_of_the_program_is_kept(run_here: Run, program: Path) -> None:
    """Also one that is not zero; the summary is printed all the same."""
    ours = run_here(str(program), "0", "--seven")
    assert ours.code == 7
    assert "64 samples" in ours.err


def test_program_that_raises_shows_its_own_frames_only(run_here: Run, program: Path) -> None:
    """Whoever reads the traceback looks for a fault in the program."""
    ours = run_here(str(program), "0", "--fail")
    assert ours.code == 3
    assert "ValueError: the program's own" in ours.err
    assert "runpy" not in ours.err
    assert "tools/cli" not in ours.err


def test_program_that_cannot_be_compiled_shows_its_line_only(run_here: Run, program: Path) -> None:
    """No frame is the program's yet, and none of ours is shown in its place."""
    program.write_text("x = = 1\n")
    ours = run_here(str(program))
    assert ours.code == 3
    assert "SyntaxError" in ours.err
    assert "x = = 1" in ours.err
    assert "runpy" not in ours.err
    assert "tools/cli" not in ours.err


def test_excepthook_of_the_program_is_asked(run_here: Run, program: Path) -> None:
    """As by Python: a program may show its exceptions itself."""
    hook = sys.excepthook
    program.write_text(
        "import sys\nsys.excepthook = lambda kind, error, trace: print('hook:', error)\n1 / 0\n"
    )
    try:
        ours = run_here(str(program))
    finally:
        sys.excepthook = hook
    assert ours.code == 3
    assert ours.out == "hook: division by zero\n"
    assert "Traceback" not in ours.err


def test_programs_text_for_exit_is_an_error_in_its_words(run_here: Run, program: Path) -> None:
    """As by Python: the text goes to stderr, the code is 1."""
    program.write_text("import sys\nsys.exit('not today')\n")
    ours = run_here(str(program))
    assert ours.code == python(str(program)).returncode == 1
    assert "not today" in ours.err.splitlines()


@pytest.mark.parametrize("arguments", [["--help"], ["-m", "x"], ["--", "a b", ""], ["--json=3"]])
def test_arguments_pass_through_untouched(
    run_here: Run, program: Path, arguments: list[str]
) -> None:
    """Also those that our own command line would understand."""
    program.write_text("import sys\nprint(sys.argv)\n")
    assert run_here(str(program), *arguments).out == f"{[str(program), *arguments]}\n"


@pytest.mark.parametrize("way", ["file", "module", "folder", "archive"])
def test_path_and_name_are_those_of_a_plain_run(tmp_path: Path, way: str) -> None:
    """Neighbours can be imported, what lies in the current folder only if it is theirs."""
    text = "import sys\nprint(__name__, __file__, sys.path, sys.argv[0])\n"
    (tmp_path / "program.py").write_text(text)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(text)
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("__main__.py", text)
    paths = {"file": [str(tmp_path / "program.py")], "module": ["-m", "program"]}
    arguments = paths.get(way, [str(tmp_path / way)])
    ours, alone = (python(*run, *arguments, cwd=tmp_path) for run in (OURS, ()))
    assert ours.stdout == alone.stdout
    assert ours.stdout


@pytest.mark.parametrize(
    ("method", "as_module"),
    [
        *(("spawn", False), ("forkserver", True)),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in (("forkserver", False), ("spawn", True))
        ),
    ],
)
def test_workers_of_a_program_are_started_by_its_method(
    tmp_path: Path, method: str, as_module: bool
) -> None:
    """A dataset that the script defines is found by processes that start anew."""
    path = tmp_path / "program.py"
    path.write_text(SPAWNING)
    arguments = ["-m", "program"] if as_module else [str(path)]
    ours = python(*OURS, *arguments, method, cwd=tmp_path)
    assert ours.stdout.splitlines() == ["fastload.dataloader", "[[0, 1], [4]]"], ours.stderr
    assert ours.returncode == 0


def test_interrupted_program_ends_as_interrupted(run_here: Run, program: Path) -> None:
    """Ctrl-C is the program's, and so is the traceback; nothing but the exit code is ours."""
    program.write_text("def work():\n    raise KeyboardInterrupt\n\nwork()\n")
    ours = run_here(str(program))
    assert ours.code == Exit.INTERRUPTED
    assert "in work" in ours.err
    assert "runpy" not in ours.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.py"], "no such file: nothing.py"),
        (["package"], "no __main__.py in the folder package"),
        (["-m", "no_such_module"], "no module named no_such_module"),
        (["-m", "no_such.module"], "no module named no_such"),
        (["-m", "package.nothing"], "no module named package.nothing"),
        (["-m", "package"], "no module named package.__main__ (it is a package)"),
        (["-m", ""], "no module named "),
    ],
)
def test_program_that_is_not_there_is_a_usage_error(
    run_here: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    """A file and a module end alike: one line, exit code 2."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    ours = run_here(*arguments)
    assert ours.code == Exit.USAGE
    assert ours.err == f"fastload run: {words}\n"
    assert ours.out == ""


def test_module_of_a_broken_package_shows_what_the_package_raises(
    run_here: Run, tmp_path: Path
) -> None:
    """What it lacks is not taken for the module that was asked for."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("import a_library_that_is_missing\n")
    (tmp_path / "package" / "inner.py").touch()
    ours = run_here("-m", "package.inner")
    assert ours.code == Exit.RAISED
    assert "ModuleNotFoundError: No module named 'a_library_that_is_missing'" in ours.err


def test_every_line_names_its_rank(
    run_here: Run, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchrun several processes write to one terminal; the program's own lines stay."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    program.write_text("import sys\nprint('mine', file=sys.stderr)\n")
    lines = run_here(str(program)).err.splitlines()
    assert [line.startswith("[rank 3] fastload: ") for line in lines] == [True, False, True]
    assert run_here("nothing.py").err == "[rank 3] fastload run: no such file: nothing.py\n"


def test_no_program_is_a_usage_error(run_here: Run) -> None:
    """Said in a line, too."""
    ours = run_here()
    assert ours.code == 2
    assert "which program?" in ours.err
