import os
import sys
from pathlib import Path

import psutil
import pytest

from fastload.tools.bench.child import FOLDER, Child

TURN = "from fastload.tools.bench.child import await_turn; await_turn(); "


def command(code):
    return [sys.executable, "-c", TURN + code]


def test_command_that_ends_is_reported():
    """Exit code, output and memory of a command come back."""
    code = "import sys, time; x = b'x' * 2**26; print('out'); time.sleep(0.5); sys.exit('err')"
    with Child(command(code)) as child:
        finished = child.finish(30)
    assert (finished.returncode, finished.overran) == (1, False)
    assert (finished.stdout, finished.stderr) == ("out\n", "err\n")
    assert finished.peak_memory_bytes > 2**26


def test_command_waits_for_its_turn():
    """A command does nothing after its imports until it is its turn."""
    with Child(command("print('worked')")) as child:
        child.await_ready(30)
        assert child._process.poll() is None
        assert child.finish(30).stdout == "worked\n"


def test_command_that_hangs_is_killed_with_its_group(tmp_path):
    """When the time is over, neither the command nor a process it started is left."""
    file = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"pathlib.Path({str(file)!r}).write_text(str(child.pid)); time.sleep(600)"
    )
    with Child(command(code)) as child:
        child.await_ready(30)
        finished = child.finish(2)
    assert finished.overran
    assert finished.returncode == -9
    assert not psutil.pid_exists(int(file.read_text()))


def test_process_left_by_a_command_is_killed(tmp_path):
    """A command that ends and leaves a process behind leaves it no longer."""
    file = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"pathlib.Path({str(file)!r}).write_text(str(child.pid))"
    )
    with Child(command(code)) as child:
        assert child.finish(30).returncode == 0
    psutil.wait_procs([p for p in [_process(int(file.read_text()))] if p], timeout=60)
    assert not psutil.pid_exists(int(file.read_text()))


def test_command_that_never_gets_its_turn_is_killed():
    """Leaving the context ends a command that was only started."""
    with Child(command("pass")) as child:
        pid = child._process.pid
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)"])
def test_files_of_a_command_are_removed(end):
    """The folder that a command was given goes with it, also if it was killed."""
    code = (
        f"import os, pathlib; folder = pathlib.Path(os.environ[{FOLDER!r}]); "
        f"(folder / 'file').write_text('x'); print(folder, flush=True); {end}"
    )
    with Child(command(code)) as child:
        folder = Path(child.finish(30).stdout.strip())
        assert (folder / "file").exists()
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_command_dies_with_the_process_that_started_it(tmp_path):
    """A killed parent takes the command's whole group with it."""
    file = tmp_path / "pids"
    inner = (
        "import os, pathlib, subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"pathlib.Path({str(file)!r}).write_text(f'{{os.getpid()}} {{child.pid}}'); "
        "os.kill(os.getppid(), 9); time.sleep(600)"
    )
    outer = f"from fastload.tools.bench.child import Child; Child({command(inner)!r}).finish(60)"
    # Its folder stays if the parent was killed, as any temporary file would.
    parent = psutil.Popen(
        [sys.executable, "-c", outer], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert parent.wait(60) == -9
    left = [p for p in map(_process, map(int, file.read_text().split())) if p]
    _, alive = psutil.wait_procs(left, timeout=60)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def _process(pid):
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
