"""Run all checks, in the order in which their findings are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastload.tools.doctor import accelerator, computing, kernel, limits, memory, starting, storage
from fastload.tools.doctor.finding import Finding


def examine(paths: Sequence[Path] = ()) -> list[Finding]:
    """Look at this machine as a loader would use it. Imports torch, if that can be imported.

    Args:
        paths: Files or folders to be read from, which exist.

    Returns:
        A finding for each thing that was looked at.

    Raises:
        OSError: One of the paths can't be looked at.

    Example:
        >>> from pathlib import Path
        >>> [finding.name for finding in examine([Path("/")])][-1]
        'file system'
    """
    started = starting.judge()  # before CUDA, which does not survive a fork
    seen = accelerator.observe()
    return [
        *computing.judge(computing.observe(seen.threads)),
        *memory.judge(memory.observe()),
        *limits.judge(limits.observe()),
        *started,
        *kernel.judge(),
        *accelerator.judge(seen),
        *[storage.judge(storage.observe(path)) for path in paths],
    ]
