"""`fastload profile` on the command line, in the test's own process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fastload.tools.cli import main

PROGRAM = r"""
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
    raise KeyError("mine\x1b]0;title\x07")

def step(batch):
    time.sleep(0.001)

class Key:
    def __init__(self, number):
        self.number = number

    def __repr__(self):
        return f"\x1b[31m[red]{self.number}"

class ByKey:
    def __len__(self):
        return 40

    def __getitem__(self, key):
        time.sleep(0.001)
        return key.number

names = {"\x1b[2J[bold]:smile:": torch.utils.data.DataLoader(
    ByKey(), batch_size=4, sampler=[Key(number) for number in range(40)]
)}
vars()["\x1b[2J[bold]"] = names["\x1b[2J[bold]:smile:"]
"""


class Done(NamedTuple):
    """How the command ended."""

    code: int
    out: str
    err: str


Profile = Callable[..., Done]


@pytest.fixture
def profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Profile:
    """Profile what lies in a folder of the test's."""
    (tmp_path / "program_of_mine.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "program_of_mine", raising=False)

    def run(*arguments: str) -> Done:
        return Done(main(["profile", *arguments]), *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    "home",
    ["program_of_mine.py", pytest.param("program_of_mine", marks=pytest.mark.exhaustive)],
)
def test_a_loader_is_profiled_and_the_files_are_written(
    profile: Profile, tmp_path: Path, home: str
) -> None:
    """One screen on stdout, nothing else; JSON and a trace in files."""
    files = ("--json", "profile.json", "--trace", "trace.json")
    done = profile(f"{home}:loader", "--step-ms", "1", "--budget", "2", *files)
    assert done.code == 0, done.err
    assert done.out.startswith("Highly input-bound")
    for title in ("Where a batch's time goes", "What if", "Run for real", "What to change"):
        assert title in done.out
    document = json.loads((tmp_path / "profile.json").read_text())
    assert document["schema_version"] == 1
    assert document["loader"] == "torch"
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_the_figures_of_a_screen_agree(profile: Profile, tmp_path: Path) -> None:
    """The verdict, the consumer's use and the row of the loader's own setting are of one run."""
    done = profile(
        *("program_of_mine:loader", "--step-ms", "2", "--budget", "1", "--json", "profile.json")
    )
    assert done.code == 0, done.err
    document = json.loads((tmp_path / "profile.json").read_text())
    verdict, own = document["verdict"], document["verified"][0]
    assert own["setting"] == document["setting"]
    assert verdict["samples_per_s"] == own["measured_samples_per_s"]
    assert verdict["stall_share"] == pytest.approx(own["measured_stall_share"], abs=0.001)
    assert verdict["headroom"] == pytest.approx(1 / (1 - verdict["stall_share"]))
    consumer = {each["name"]: each for each in document["resources"]}["consumer"]
    assert consumer["use"] == pytest.approx(1 - verdict["stall_share"])
    for fix in document["fixes"]:
        assert fix["basis"] == "measured" or fix["gain"] <= verdict["headroom"]


def test_the_training_step_may_be_a_function(profile: Profile) -> None:
    """Named as the target is."""
    step = ("--train", "program_of_mine:step")
    done = profile("program_of_mine:loader", *step, "--budget", "1")
    assert done.code == 0, done.err
    assert "step: program_of_mine:step" in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("program_of_mine:nothing",),
        ("program_of_mine:\x1b[2Jnothing",),
        ("nothing",),
        ("program_of_mine:loader", "--budget", "none"),
        ("program_of_mine:loader", "--step-ms", "-1"),
        ("program_of_mine:loader", "--step-ms", "1", "--train", "program_of_mine:step"),
        ("program_of_mine:loader", "\x1b[2J"),
        (),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(profile: Profile, arguments: tuple[str, ...]) -> None:
    """On stderr, without a traceback and without escapes of what was typed."""
    done = profile(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert "\x1b" not in done.err


def test_an_exception_of_the_target_is_exit_code_3(profile: Profile) -> None:
    """With its traceback, whose text does nothing to the terminal."""
    done = profile("program_of_mine:broken")
    assert done.code == 3
    assert r"KeyError: 'mine\x1b]0;title\x07'" in done.err
    assert "\x1b" not in done.err


def test_names_and_keys_of_a_program_are_shown_as_they_are(profile: Profile) -> None:
    """Of the target and of slow samples: escapes are escaped, markup is none."""
    done = profile("program_of_mine:\x1b[2J[bold]", "--budget", "1")
    assert done.code == 0, done.err
    assert r"program_of_mine:\x1b[2J[bold]: torch's DataLoader" in done.out
    assert r"\x1b[31m[red]" in done.out.partition("Slowest samples")[2]
    assert all(each.isprintable() or each == "\n" for each in done.out + done.err)
