"""Every example runs: those in docstrings, and each block of Python in README and docs."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import fastload

ROOT = Path(__file__).parents[1]
PACKAGE = Path(fastload.__file__).parent

MODULES = sorted(
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
    if ">>> " in file.read_text()
)
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    if "```python" in page.read_text()
)

IMAGES = """
import torch
from torch.utils.data import TensorDataset
dataset = TensorDataset(torch.zeros(256, 3, 8, 8), torch.arange(256))
"""

BEFORE = {
    "README.md": IMAGES,
    "docs/migrating.md": "import os; os.environ['LOADER'] = 'fastload'",
    "docs/profiling.md": IMAGES
    + """
import types
from pathlib import Path
import fastload
loader = fastload.DataLoader(dataset, batch_size=64, num_workers=1)
step, sent = 7, []

class SummaryWriter:
    def add_scalar(self, name, value, step):
        sent.append(name)

wandb = types.SimpleNamespace(log=sent.extend)
""",
    "docs/shared-containers.md": "from torch.utils.data import Dataset; decode = str.upper",
}
"""What a page takes for granted: the reader's own dataset, and libraries that need an account."""

AFTER = {
    "docs/migrating.md": """
import torch.utils.data
assert torch.utils.data.DataLoader is fastload.DataLoader
fastload.unpatch()
""",
    "docs/profiling.md": "assert sent and Path('fastload.prom').read_text()",
    "docs/shared-containers.md": "assert Images(['a'], {'a': 'cat'})[0] == ('A', 'cat')",
}
"""What shows that a page's examples did what they are there for."""

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples write files beside them; variables of the environment are put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOADER", "torch")


def test_examples_are_found() -> None:
    """Neither list is empty, as it would be if this file had moved."""
    assert "fastload.dataloader" in MODULES
    assert {"README.md", "docs/samplers.md"} <= set(PAGES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str) -> None:
    """And give what they show."""
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_a_page_run(page: str) -> None:
    """One after the other, as one reads; sessions with a prompt give what they show."""
    names: dict[str, Any] = {"__name__": f"examples_of_{Path(page).stem}"}
    exec(BEFORE.get(page, ""), names)
    for block in BLOCK.finditer((ROOT / page).read_text()):
        line = block.string[: block.start(1)].count("\n")
        if block[1].startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block[1], names, page, page, line)
            assert test.examples
            assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0
            names = test.globs
        else:
            exec(compile("\n" * line + block[1], page, "exec"), names)
    exec(AFTER.get(page, ""), names)
