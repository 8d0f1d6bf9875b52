"""After every test nothing is left: no process, no descriptor, no file in shared memory."""

import contextlib
import gc
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

from tests import rounds

PATIENCE_S = 30.0
PATIENCE_WITH_DESCRIPTORS_S = 3.0
POLL_S = 0.02
# Descriptors that something opens once, at its first use, and keeps: over the whole session.
LAZY_DESCRIPTORS_ALLOWED = 4

ON_LINUX = sys.platform.startswith("linux")
SHARED_MEMORY = Path("/dev/shm")
_lazy_descriptors: set[str] = set()


# How long examples take to draw says how busy the machine is, nothing about fastload.
hypothesis.settings.register_profile(
    "fastload", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("fastload")


def pytest_configure(config: Any) -> None:
    rounds.is_exhaustive = config.getoption("exhaustive")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in the background so; programs of tests would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Once for all tests, and not in each of the server's children, which import a test's module.
    multiprocessing.set_forkserver_preload(
        ["pytest", "psutil", "torch", "numpy.random", "fastload._worker.loop"]
    )
    # pytest-timeout runs a timer thread in every test, so Python 3.12 warns about every fork.
    config.addinivalue_line(
        "filterwarnings", "ignore:This process .* is multi-threaded:DeprecationWarning"
    )
    config.addinivalue_line("markers", "leaves(pattern): what is known to stay after this test")
    config.addinivalue_line("markers", "exhaustive: left out but for --exhaustive (make test-all)")


def pytest_addoption(parser: Any) -> None:
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="also run what takes long and rarely fails",
    )


def pytest_collection_modifyitems(config: Any, items: Any) -> None:
    """Leave out what is marked exhaustive, unless asked for, all of it or one by its name."""
    if config.getoption("exhaustive") or any("::" in argument for argument in config.args):
        return
    left_out = [item for item in items if item.get_closest_marker("exhaustive")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Any:
    """Freeze what is imported and found: each garbage collection would go through all of it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    report = yield
    if call.when == "call":
        item.stash[HAS_FAILED] = report.failed
    return report


HAS_FAILED = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def nothing_is_left(request: Any) -> Any:
    """Fail the test that leaves a process, a descriptor or a shared memory file behind."""
    if not ON_LINUX:
        yield
        return
    descriptors_before = _descriptors()
    files_before = _shared_memory_files()
    yield

    known = request.node.get_closest_marker("leaves")

    def left() -> Any:
        found = (
            [f"process {child}" for child in _children()]
            + [f"descriptor {d}" for d in sorted(_descriptors() - descriptors_before)]
            + [
                f"file {name}"
                for name in sorted(_shared_memory_files() - files_before)
                if not _is_foreign(name)
            ]
        )
        return [what for what in found if not (known and re.search(known.args[0], what))]

    has_failed = request.node.stash.get(HAS_FAILED, True)
    leftovers = left() if has_failed else _await_nothing(left)
    if leftovers or known:
        for child in _children():
            _end(child)
    if has_failed:
        return  # A failure keeps its frames, and so what they hold, alive.
    lazy = {item for item in leftovers if item.startswith("descriptor")}
    if len(lazy) == len(leftovers) and len(_lazy_descriptors | lazy) <= LAZY_DESCRIPTORS_ALLOWED:
        _lazy_descriptors.update(lazy)
        return
    assert not leftovers, "the test left behind: " + "; ".join(leftovers)


def _await_nothing(left: Callable[[], list[str]]) -> list[str]:
    """Wait until nothing is left, or for long; what is left then."""
    since, were_descriptors = time.monotonic(), False
    while leftovers := left():  # another test's may come and go
        are_descriptors = all(item.startswith("descriptor") for item in leftovers)
        if are_descriptors and not were_descriptors:
            since = time.monotonic()  # those of processes go after these, however slow these were
        were_descriptors = are_descriptors
        limit_s = PATIENCE_WITH_DESCRIPTORS_S if are_descriptors else PATIENCE_S
        if time.monotonic() > since + limit_s:
            break
        gc.collect()
        time.sleep(POLL_S)
    return leftovers


def _children() -> list[psutil.Process]:
    """All descendants but the two servers that multiprocessing keeps for a whole session."""
    servers = {
        multiprocessing.forkserver._forkserver._forkserver_pid,  # type: ignore[attr-defined]
        multiprocessing.resource_tracker._resource_tracker._pid,  # type: ignore[attr-defined]
    }
    return [c for c in psutil.Process().children(recursive=True) if c.pid not in servers]


def _end(child: psutil.Process) -> None:
    try:
        child.kill()
        child.wait(timeout=PATIENCE_S)
    except psutil.Error:
        pass


def _descriptors() -> set[str]:
    """What is open, as 'number target', without the two servers' ends."""
    servers = {
        multiprocessing.forkserver._forkserver._forkserver_alive_fd,  # type: ignore[attr-defined]
        multiprocessing.resource_tracker._resource_tracker._fd,  # type: ignore[attr-defined]
    }
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = link.readlink()
        except FileNotFoundError:
            continue  # The one that listed the folder.
        if int(link.name) not in servers:
            found.add(f"{link.name} {target}")
    return found


def _shared_memory_files() -> set[str]:
    return {entry.name for entry in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def _is_foreign(name: str) -> bool:
    """Whether a new file in /dev/shm is another program's, which made it or has it mapped."""
    if re.fullmatch(r"sem\.\w{6}", name):
        return True  # The C library's, for the moment in which it makes a semaphore.
    ours = {os.getpid(), *(child.pid for child in _children())}
    maker = re.match(r"torch_(\d+)_", name)  # on its way between two processes nobody has it mapped
    if maker and int(maker[1]) in set(psutil.pids()) - ours:
        return True
    with contextlib.suppress(FileNotFoundError):
        # By number: a mapped semaphore shows the name that it had in that moment.
        mapped = re.compile(rf" {(SHARED_MEMORY / name).stat().st_ino} +{SHARED_MEMORY}/")
        for pid in set(psutil.pids()) - ours:
            with contextlib.suppress(OSError):
                if mapped.search(Path(f"/proc/{pid}/maps").read_text()):
                    return True
    return False
