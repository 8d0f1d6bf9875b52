import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fastload.tools.bench.catalogue import WORKLOADS
from fastload.tools.cli import bench, main
from fastload.tools.cli.exits import Exit

ROOT = Path(__file__).parents[3]


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "fastload", "bench", "--quick", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "40"},
        **options,
    )


@pytest.fixture
def race(capfd, monkeypatch):
    """Run the command in this process; what it measures has processes of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COLUMNS", "40")

    def run(*arguments):
        code = main(["bench", "--quick", *arguments])
        return code, *capfd.readouterr()

    return run


def test_list_names_every_workload(capsys):
    """`--list` prints a line per workload and measures nothing."""
    assert main(["bench", "--list"]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [workload.name for workload in WORKLOADS]


def test_unknown_workload_is_a_usage_error(capsys):
    """A misspelt workload is answered with the right one and all others."""
    assert main(["bench", "--workload", "tokenz"]) == Exit.USAGE
    err = capsys.readouterr().err
    assert "unknown workload 'tokenz', did you mean 'tokens'?" in err
    assert "images-float32" in err
    assert main(["bench", "--workload", "zzzz"]) == Exit.USAGE
    assert "unknown workload 'zzzz'. The workloads are: " in capsys.readouterr().err


def test_missing_library_is_told_before_anything_runs(capsys, monkeypatch):
    """Without scikit-learn the exit code is 4, and the message says how to get it."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["bench", "--workload", "digits"]) == Exit.ENVIRONMENT
    assert "sklearn not installed" in (err := capsys.readouterr().err)
    assert "pip install 'fastload[bench]'" in err


def test_race_fills_table_and_file(race, tmp_path):
    """In a pipe the table is whole whatever the terminal's width; the file holds every run."""
    file = tmp_path / "result.json"
    workloads = ("tiny-tensor-inline", "tiny-numpy")
    names = [argument for name in workloads for argument in ("--workload", name)]
    code, out, _ = race(*names, "--json", str(file))
    assert code == Exit.OK
    document = json.loads(file.read_text())
    assert document["schema_version"] == 1
    assert document["complete"] is True
    assert {"cores", "python", "torch", "numpy", "fastload", "commit"} <= set(document["machine"])
    assert document["settings"]["workloads"] == list(workloads)
    assert set(document["geometric_mean"]) == {"drop_in", "with_workers", "all"}
    for entry, workers in zip(document["workloads"], (0, 2), strict=True):
        assert entry["workers"] == workers
        assert entry["failure"] is None
        assert entry["same_data"] is True
        assert [run["loader"] for run in entry["runs"]] == ["torch", "fastload"]
        assert all(run["measurement"]["rate"] > 0 for run in entry["runs"])
        assert all(run["measurement"]["children_left"] == 0 for run in entry["runs"])
        assert all(run["peak_memory_bytes"] > 0 for run in entry["runs"])
        row = next(line for line in out.splitlines() if line.split()[:1] == [entry["workload"]])
        assert f"{entry['summary']['baseline']['rate']:,.0f}" in row
        assert f"{entry['summary']['candidate']['rate']:,.0f}" in row
        assert f"{entry['summary']['ratio']['median']:.2f}" in row
        assert "…" not in row
    assert out.splitlines()[-1].startswith("geometric mean of the ratios: ")


@pytest.mark.parametrize(("loader", "code"), [("Swapped", Exit.BAD), ("Raising", Exit.RAISED)])
def test_faulty_loader_decides_the_exit_code(race, loader, code):
    """Unequal batches end with exit code 1, a loader that raises with 3; stderr says why."""
    arguments = (
        "--workload",
        "tiny-tensor-inline",
        "--loader",
        f"tests.tools.bench.loaders:{loader}",
    )
    returned, out, err = race(*arguments)
    assert returned == code
    assert "tiny-tensor-inline: " in err
    assert "geometric mean of the ratios: none" in out


def test_interrupt_ends_everything_and_keeps_what_is_done(tmp_path):
    """Ctrl-C ends with exit code 130, no process left, and a file that says it is incomplete."""
    file = tmp_path / "result.json"
    process = start("--json", str(file), "--workload", "images-float32", start_new_session=True)
    bench = psutil.Process(process.pid)
    while not (children := [child for child in bench.children() if _is_at_work(child)]):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=240)
    assert process.returncode == Exit.INTERRUPTED
    # One that was just being started finds out when it has imported torch.
    assert not psutil.wait_procs(children, timeout=60)[1]
    assert json.loads(file.read_text())["complete"] is False


def _is_at_work(process):
    """Tell a comparison or measurement from the git that tells the commit."""
    try:
        return any(argument.startswith("fastload.tools.bench.") for argument in process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.exhaustive
def test_seed_is_told_with_the_loader(race, tmp_path):
    """`--seed` races the loader with that seed, under a name that says so."""
    file = tmp_path / "results.json"
    code, _, err = race("--seed", "3", "--workload", "tiny-numpy-inline", "--json", str(file))
    assert code == Exit.OK, err
    document = json.loads(file.read_text())
    assert document["settings"]["candidate"] == "fastload(seed=3)"
    loaders = [run["loader"] for run in document["workloads"][0]["runs"]]
    assert loaders == ["torch", "fastload(seed=3)"]


def test_seed_goes_into_the_name_of_the_loader(monkeypatch, capsys):
    """The suite is given the loader under a name with its seed."""
    given = []
    monkeypatch.setattr(bench, "run_suite", lambda settings, _: given.append(settings) or [])
    main(["bench", "--quick", "--seed", "3", "--workload", "tiny-numpy-inline"])
    assert [settings.candidate for settings in given] == ["fastload(seed=3)"]
