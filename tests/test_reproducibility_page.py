"""Every block of code in docs/reproducibility.md runs as it stands there, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reproducibility.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
LIMIT_S = 240


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_block_of_the_page_runs(language, code, tmp_path):
    """A block ends without an error; what it claims stands in it as an assertion."""
    fastload = f'"{sys.executable}" -m fastload'
    command = {
        "python": [sys.executable, "-c", code],
        "bash": ["bash", "-ec", f'fastload() {{ {fastload} "$@"; }}\n{code}'],
    }[language]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=LIMIT_S,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_has_blocks():
    """The pattern above finds those of each language."""
    assert len(BLOCKS) >= 4
    assert {language for language, _ in BLOCKS} == {"python", "bash"}
