"""Describe the machine and the software that a benchmark ran on."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastload._system.cores import affinity_cores

BUSY_LOAD = 0.5
"""Load per core above which somebody else is at work."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine and the software. `load` is the load average of the last minute at the start."""

    system: str
    processor: str
    cores: int
    load: float
    python: str
    torch: str | None
    numpy: str | None
    fastload: str | None
    commit: str | None


def describe_machine() -> Machine:
    """Describe this machine; torch's version is read without importing it."""
    return Machine(
        system=platform.platform(),
        processor=_processor(),
        cores=affinity_cores(),
        load=load_average(),
        python=platform.python_version(),
        torch=version_of("torch"),
        numpy=version_of("numpy"),
        fastload=version_of("fastload"),
        commit=_commit(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution, None of one that is not there."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the checkout that fastload runs from, `+` where files differ from it."""
    git = shutil.which("git")
    root = Path(__file__).parents[3]
    if git is None or not (root / ".git").exists():
        return None
    head = _output(git, "-C", str(root), "rev-parse", "HEAD")
    if not head:
        return None
    return head + ("+" if _output(git, "-C", str(root), "status", "--porcelain") else "")


def _output(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def load_average() -> float:
    """Return how many processes wanted a core in the last minute; 0 where the system says not."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0
