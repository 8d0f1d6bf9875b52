"""Write a file so that it appears whole, or not at all.

Runs in: the process that writes the file.
Takes: where the file is to be.
Gives: another path in the same folder, which is renamed once everything is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[str]:
    """Give a path to write to, which gets the right name once everything went well."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield str(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
