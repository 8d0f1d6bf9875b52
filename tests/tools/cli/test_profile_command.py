"""`fastload profile` on the command line."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import time
import torch.utils.data

class Rows:
    def __len__(self):
        return 200

    def __getitem__(self, index):
        time.sleep(0.001)
        return index

loader = torch.utils.data.DataLoader(Rows(), batch_size=4, num_workers=1)

def broken():
    raise KeyError("mine")

def step(batch):
    time.sleep(0.001)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program_of_mine.py").write_text(PROGRAM)
    return tmp_path


def fastload(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "fastload", "profile", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("home", ["program_of_mine.py", "program_of_mine"])
def test_a_loader_is_profiled_and_the_files_are_written(program, home):
    """One screen on stdout, nothing else; JSON and a trace in files."""
    files = ("--json", "profile.json", "--trace", "trace.json")
    done = fastload(program, f"{home}:loader", "--step-ms", "1", "--budget", "2", *files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Highly input-bound")
    for title in ("Where a batch's time goes", "What if", "Run for real", "What to change"):
        assert title in done.stdout
    document = json.loads((program / "profile.json").read_text())
    assert document["schema_version"] == 1
    assert document["loader"] == "torch"
    assert json.loads((program / "trace.json").read_text())["traceEvents"]


def test_the_training_step_may_be_a_function(program):
    """Named as the target is."""
    step = ("--train", "program_of_mine:step")
    done = fastload(program, "program_of_mine:loader", *step, "--budget", "1")
    assert done.returncode == 0, done.stderr
    assert "step: program_of_mine:step" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("program_of_mine:nothing",),
        ("nothing",),
        ("program_of_mine:loader", "--budget", "none"),
        ("program_of_mine:loader", "--step-ms", "-1"),
        ("program_of_mine:loader", "--step-ms", "1", "--train", "program_of_mine:step"),
        (),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(program, arguments):
    """On stderr, in a line, without a traceback."""
    done = fastload(program, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_an_exception_of_the_target_is_exit_code_3(program):
    """With its traceback."""
    done = fastload(program, "program_of_mine:broken")
    assert done.returncode == 3
    assert "KeyError: 'mine'" in done.stderr
