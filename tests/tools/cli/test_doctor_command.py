"""`fastload doctor` and `fastload env`, on this machine and with real limits."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastload.tools.bench.environment import describe_environment
from fastload.tools.cli import main
from fastload.tools.cli.exits import Exit

ROOT = Path(__file__).parents[3]


def examined(
    *arguments: str,
    limit: Callable[[], None] | None = None,
    **environment: str,
) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON document of a doctor in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "fastload", "doctor", "--json", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=limit,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    return result.returncode, json.loads(result.stdout)


def finding(document: dict[str, Any], name: str) -> dict[str, str]:
    found: list[dict[str, str]] = [f for f in document["findings"] if f["name"] == name]
    assert len(found) == 1
    return found[0]


def test_every_thing_is_looked_at(tmp_path: Path) -> None:
    """JSON alone on stdout: a finding for each, each bad one or warning with its cure."""
    code, document = examined(str(tmp_path), OMP_NUM_THREADS="2")
    names = [each["name"] for each in document["findings"]]
    assert names == [
        *("cores", "affinity", "CPU quota", "threads", "memory", "/dev/shm", "address space"),
        *("open files", "processes", "start by fork", "start by spawn", "start by forkserver"),
        *("memfd", "F_SETSIG", "pidfd", "MADV_POPULATE", "torch", "CUDA", "pinned memory"),
        "file system",
    ]
    assert document["schema_version"] == 1
    assert document["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert all(bool(f["cure"]) == (f["verdict"] != "ok") for f in document["findings"])
    assert code == (Exit.BAD if document["verdict"] == "bad" else Exit.OK)
    assert "OMP_NUM_THREADS=2" in finding(document, "threads")["found"]


def test_text_says_what_json_says(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each finding, and a sum; in a pipe nothing is cut."""
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["ok", "memfd"] for line in lines)
    assert "…" not in "".join(lines)
    assert lines[-1].endswith("bad")


@pytest.fixture(scope="module")
def limited() -> dict[str, Any]:
    """What the doctor finds with few descriptors, little address space and one core."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 999))
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    _, document = examined(limit=limit, OMP_NUM_THREADS="16")
    return document


def test_real_limit_on_open_files_is_seen(limited: dict[str, Any]) -> None:
    """With 64 descriptors there is room for few workers; the hard limit is named as the cure."""
    assert finding(limited, "open files")["verdict"] == "warn"
    assert "ulimit -n 999" in finding(limited, "open files")["cure"]


def test_real_limit_on_address_space_is_seen(limited: dict[str, Any]) -> None:
    """With 8 GiB of address space a pool gets less than two."""
    assert finding(limited, "address space")["verdict"] == "warn"
    assert finding(limited, "address space")["found"].startswith("8.0 GiB, of which")


def test_real_affinity_is_seen(limited: dict[str, Any]) -> None:
    """Bound to one core, that is what there is."""
    assert finding(limited, "affinity")["found"].startswith("1 of")
    assert finding(limited, "cores")["verdict"] == "warn"
    assert finding(limited, "threads")["verdict"] == "warn"


def test_torch_that_cannot_be_imported_is_bad(tmp_path: Path) -> None:
    """The doctor goes on without it, and its exit code says that something is bad."""
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: no such file')")
    path = f"{ROOT}{os.pathsep}{tmp_path}"
    code, document = examined(PYTHONPATH=path)
    assert code == Exit.BAD
    assert document["verdict"] == "bad"
    assert "libtorch.so" in finding(document, "torch")["found"]
    assert len(document["findings"]) > 10


ELSEWHERE = """
import json, multiprocessing, os, subprocess, sys
import psutil, rich.console, torch  # these do without on other systems in their own ways
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("getloadavg", "sched_getaffinity", "memfd_create", "pidfd_open", "geteuid", "getuid"):
    delattr(os, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
from fastload.tools.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_systems_without_the_modules_of_unix_are_examined() -> None:
    """What can't be imported or called there is one finding, or no limit; nothing is raised."""
    command = [sys.executable, "-c", ELSEWHERE, "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert document["verdict"] == "warn"
    assert finding(document, "F_SETSIG")["verdict"] == "warn"
    assert finding(document, "memfd")["verdict"] == "warn"
    assert finding(document, "open files")["found"] == "unlimited"
    assert finding(document, "start by spawn")["verdict"] == "ok"


def test_texts_of_the_system_are_shown_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Folders and variables may hold escapes, line ends and what rich takes for markup."""
    folder = tmp_path / "[bold]\x1b]0;title\x07\n:smile:"
    folder.mkdir()
    monkeypatch.setenv("OMP_NUM_THREADS", "\x1b[31m[red]")
    main(["doctor", str(folder)])
    main(["env"])
    captured = capsys.readouterr()
    assert all(each.isprintable() or each == "\n" for each in captured.out + captured.err)
    assert r"[bold]\x1b]0;title\x07\n:smile:" in captured.out
    assert captured.out.count(r"\x1b[31m[red]") == 2


def test_missing_path_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Said before anything is looked at."""
    assert main(["doctor", "/no/such/folder"]) == Exit.USAGE
    assert "cannot look at '/no/such/folder': No such file" in capsys.readouterr().err


def test_environment_is_the_same_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Versions, machine, settings."""
    assert main(["env", "--json"]) == Exit.OK
    document = json.loads(capsys.readouterr().out)
    assert document.pop("schema_version") == 1
    assert document["versions"]["python"] == sys.version.split()[0]
    assert document["versions"]["torch"] is not None
    assert main(["env"]) == Exit.OK
    words = capsys.readouterr().out.split()
    for section in document.values():
        assert set(section) <= set(words)


def test_environment_names_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug report is public: no folder of the user is in it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    text = json.dumps(describe_environment())
    assert '"OMP_NUM_THREADS": "3"' in text
    assert str(Path.home()) not in text
    assert str(ROOT) not in text


def test_environment_is_told_without_torch() -> None:
    """A report about a torch that can't be imported must be possible."""
    code = (
        "import sys\nfrom fastload.tools.cli import main\n"
        "assert main(['env']) == 0\nassert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
