"""`fastload profile --html` and `--png`: the files, from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from fastload.tools.cli import main
from fastload.tools.cli.exits import Exit

TARGET = """
import fastload
loader = fastload.DataLoader(list(range(400)), batch_size=4, num_workers=1)
"""


@pytest.fixture
def target(tmp_path: Path) -> str:
    # A name that is not ASCII goes into the page.
    file = tmp_path / "l\N{LATIN SMALL LETTER A WITH DIAERESIS}der.py"
    file.write_text(TARGET)
    return f"{file}:loader"


def test_profile_is_written_as_page_and_image(target: str, tmp_path: Path) -> None:
    """Also where nobody reads the screen, and in a locale that knows no such letter."""
    pytest.importorskip("matplotlib")
    page, image = tmp_path / "profile.html", tmp_path / "profile.png"
    command = [sys.executable, "-W", "ignore", "-m", "fastload", "profile", target]
    process = subprocess.Popen(
        [*command, "--budget", "2", "--step-ms", "1", "--html", str(page), "--png", str(image)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=240)
    assert process.returncode == Exit.PIPE_CLOSED, err
    title = next(ET.fromstring(page.read_text(encoding="utf-8")).iter("h1")).text
    assert title == target
    assert image.read_bytes().startswith(b"\x89PNG")


def test_image_without_matplotlib_is_told_before_anything_runs(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 4, and how to get it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    image = tmp_path / "profile.png"
    assert main(["profile", target, "--png", str(image)]) == Exit.ENVIRONMENT
    assert "pip install 'fastload[plot]'" in capsys.readouterr().err
    assert not image.exists()
