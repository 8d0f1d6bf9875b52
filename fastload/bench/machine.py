"""What a benchmark ran on."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


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
        cores=_usable_cores(),
        load=os.getloadavg()[0],
        python=platform.python_version(),
        torch=_version("torch"),
        numpy=_version("numpy"),
        fastload=_version("fastload"),
        commit=_commit(),
    )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the checkout that fastload runs from, `+` where files differ from it."""
    git = shutil.which("git")
    root = Path(__file__).parents[2]
    if git is None or not (root / ".git").exists():
        return None
    head = _output(git, "-C", str(root), "rev-parse", "HEAD")
    if not head:
        return None
    return head + ("+" if _output(git, "-C", str(root), "status", "--porcelain") else "")


def _output(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""
