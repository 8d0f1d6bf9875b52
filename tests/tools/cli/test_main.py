import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from fastload.tools.cli import main
from fastload.tools.cli.exits import Exit

PRINTS = """
import torch.utils.data
loader = torch.utils.data.DataLoader(list(range(64)), batch_size=4)
if __name__ == "__main__":
    print("a word")
"""

QUICK = [
    *(["--help"], ["--version"], ["env"], ["env", "--json"], ["doctor"], ["bench", "--list"]),
    *(["compare", "{results}", "{results}"], ["compare", "{results}", "{results}", "--json"]),
    ["run", "{program}"],
]
TRAIN = ["train", "--epochs", "1", "--workers", "0", "--json", "/dev/full"]
LONG = [
    ["train", "--epochs", "1", "--workers", "0"],
    ["profile", "{program}:loader", "--budget", "1"],
    ["bench", "--quick", "--workload", "table-inline"],
]

ROOT = Path(__file__).parents[3]
# Stands in for fastload/__init__.py, so that the test is about what the command line imports.
WITHOUT_THE_LIBRARY = f"""
import sys, types
package = types.ModuleType("fastload")
package.__path__ = [{str(ROOT / "fastload")!r}]
sys.modules["fastload"] = package
"""


@pytest.fixture
def results(tmp_path):
    """A file of results, the one that is published."""
    return ROOT / "benchmarks" / "results.json"


def run_code(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["bench", "--list"]])
def test_command_line_answers_without_torch(arguments):
    """What the command line itself imports does not include torch before it is needed."""
    result = run_code(
        f"{WITHOUT_THE_LIBRARY}\nfrom fastload.tools.cli import main\n"
        f"assert main({arguments!r}) == 0\nassert 'torch' not in sys.modules"
    )
    assert result.returncode == 0, result.stderr


def test_help_answers_without_torch():
    """`fastload --help` imports no torch at all."""
    result = run_code(
        "import sys\nfrom fastload.tools.cli import main\n"
        "assert main(['--help']) == 0\nassert 'torch' not in sys.modules"
    )
    assert result.returncode == 0, result.stderr


def test_help_names_the_commands():
    """`python -m fastload --help` tells which commands there are, on stdout."""
    command = [sys.executable, "-m", "fastload", "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == Exit.OK
    assert "bench" in result.stdout
    assert "train" in result.stdout


def test_version_is_the_installed_one(capsys):
    """`--version` prints name and version."""
    assert main(["--version"]) == Exit.OK
    assert capsys.readouterr().out == f"fastload {version('fastload')}\n"


def test_no_command_is_a_usage_error(capsys):
    """Without a command the help goes to stderr and the exit code is 2."""
    assert main([]) == Exit.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "bench" in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["bench", "--quic"],
        ["bench", "--rounds", "0"],
        ["bench", "--workers", "-1"],
        ["bench", "--json", "/no/such/folder/file.json"],
        ["train", "--task", "chess"],
        ["train", "--epochs", "many"],
        ["compare"],
        ["compare", "one.json"],
        ["doctor", "--fix"],
    ],
)
def test_wrong_arguments_are_usage_errors(arguments, capsys):
    """Unknown commands, abbreviations and impossible values end with exit code 2."""
    assert main(arguments) == Exit.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: fastload" in captured.err


def answer_to_nobody(*arguments):
    """Run the command line with a stdout that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            [sys.executable, "-m", "fastload", *arguments],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(write)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["bench", "--list"], ["env"], ["env", "--json"], ["--version"]),
        pytest.param(["doctor"], marks=pytest.mark.exhaustive),
    ],
)
def test_closed_pipe_ends_the_command_without_a_word(arguments):
    """As in `fastload bench --list | true`; argparse itself takes no notice."""
    result = answer_to_nobody(*arguments)
    assert result.returncode == (0 if arguments == ["--version"] else Exit.PIPE_CLOSED)
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk always full")
@pytest.mark.parametrize(
    ("arguments", "buffering"),
    [
        *((arguments, "") for arguments in QUICK),
        *((["env"], "1"), (["run", "{program}"], "1"), (TRAIN, "")),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in [
                *((arguments, "1") for arguments in QUICK if arguments[0] not in ("env", "run")),
                *((arguments, "") for arguments in LONG),
            ]
        ),
    ],
)
def test_full_disk_is_told_in_one_line(arguments, buffering, tmp_path, results):
    """A result that cannot be written is exit code 4, whenever the interpreter writes it."""
    program = tmp_path / "program_that_prints.py"
    program.write_text(PRINTS)
    arguments = [each.format(results=results, program=program) for each in arguments]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "fastload", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": buffering},
        )
    words = "No space left on device"
    if arguments[0] == "run" and buffering:  # then the program itself meets the full disk
        assert result.returncode == Exit.RAISED
        assert f"OSError: [Errno 28] {words}" in result.stderr.splitlines()
        return
    assert result.returncode == Exit.ENVIRONMENT, result.stderr
    others = ("fastload: replaced", "fastload: no batch", "this machine is busy")
    told = [line for line in result.stderr.splitlines() if not line.startswith(others)]
    what = "'/dev/full'" if "/dev/full" in arguments else "stdout"
    assert told == [f"fastload: cannot write to {what}: {words}"]


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(redirection):
    """A program started without stdout or stderr does its work all the same."""
    command = f"{shlex.quote(sys.executable)} -m fastload env {redirection}"
    result = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True)
    assert result.returncode == Exit.OK
    assert result.stderr == ""


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        {"NO_COLOR": "1"},
        {"COLUMNS": "40"},
        {"TERM": "dumb"},
    ],
)
def test_odd_environments_change_no_answer(environment):
    """An encoding without a single accent, no colours, few columns: in a pipe all is the same."""
    command = [sys.executable, "-m", "fastload", "bench", "--list"]
    plain = subprocess.run(command, capture_output=True, check=True)
    odd = subprocess.run(
        command, capture_output=True, check=True, env={**os.environ, **environment}
    )
    assert odd.stdout == plain.stdout
    assert odd.stderr == b""


def test_letters_that_the_output_lacks_are_escaped():
    """The name of a file must not end a command that has its answer."""
    code = "from fastload.tools.cli.console import make_output\nmake_output().print('\\xe4')"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert result.stdout == b"\\xe4\n"
