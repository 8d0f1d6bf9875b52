"""Real programs, really killed: nothing hangs and nothing is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.engine.scripts import Program, run

PRELUDE = """
import os, signal, sys, time
import torch
from torch.utils.data import Dataset
from fastload import DataLoader

class Stamped(Dataset):
    def __init__(self, act=None, size=4):
        self.act, self.size = act, size
    def __len__(self):
        return 64
    def __getitem__(self, index):
        if self.act is not None:
            self.act(index)
        return torch.full((self.size,), float(index))
"""


def can_mount() -> bool:
    """Whether this machine lets us have a /dev/shm of our own."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        return False
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs root and mount namespaces")
@pytest.mark.parametrize("collate", ["None", "list", "torch.stack"])
def test_shared_memory_of_one_mebibyte_lets_large_batches_through(
    tmp_path: Path, collate: str
) -> None:
    """The arena has no name and no limit in /dev/shm."""
    script = f"""{PRELUDE}
if __name__ == "__main__":
    size = 2 * 1024 * 1024
    loader = DataLoader(Stamped(size=size), batch_size=4, num_workers=2, collate_fn={collate})
    seen = [row[[0, -1]].tolist() for batch in loader for row in batch]
    assert seen == [[float(i)] * 2 for i in range(64)], seen
    print("equal")
"""
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    finished = run(script, tmp_path, wrapper=["unshare", "-m", "sh", "-c", mount, "sh"])
    assert (finished.code, finished.output) == (0, "equal\n"), finished.errors


BUSY = {
    "idle": "lambda index: None",
    "asleep": "lambda index: time.sleep(60)",
    "spinning": "spin",
    "in C with the GIL held": "hold_the_gil",
}


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; zombies have."""
    left = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.status() != "zombie":
                left.append(process)
    return left


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("state", sorted(BUSY))
def test_killed_consumer_leaves_no_worker(tmp_path: Path, state: str, start_method: str) -> None:
    """The kernel ends the workers, whatever they are doing."""
    script = f"""{PRELUDE}
import ctypes

def spin(index):
    while True:
        pass

def hold_the_gil(index):
    ctypes.PyDLL(None).sleep(60)

def tell(worker_id):
    os.write(1, b"%d\\n" % os.getpid())

if __name__ == "__main__":
    dataset = Stamped()
    iterator = iter(DataLoader(
        Act(), num_workers=2, worker_init_fn=tell,
        multiprocessing_context="{start_method}"))
    time.sleep(60)
"""
    script = script.replace(
        "if __name__",
        f"class Act(Stamped):\n    def __getitem__(self, index):\n"
        f"        ({BUSY[state]})(index)\n        return super().__getitem__(index)\n\nif __name__",
    )
    program = Program(script, tmp_path)
    try:
        workers = [psutil.Process(int(program.read_line())) for _ in range(2)]
        os.kill(program.process.pid, signal.SIGKILL)
        program.process.wait()
        deadline = time.monotonic() + 1
        while alive(workers) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not alive(workers)
        assert not program.others_after(20), "multiprocessing's own helpers take a little longer"
    finally:
        program.kill_all()
        program.wait()


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("pass", 0),
        ("sys.exit(7)", 7),
        ("raise ValueError('the end')", 1),
        ("del loader", 0),
        ("next(iterator); loader.close()", 0),
    ],
)
@pytest.mark.parametrize("persistent", [False, True])
def test_program_that_ends_with_a_live_iterator_ends_at_once(
    tmp_path: Path, ending: str, code: int, persistent: bool
) -> None:
    """Workers that sleep do not hold the interpreter, and nothing is printed but its own error."""
    script = f"""{PRELUDE}
def doze(index):
    if index >= 8:
        time.sleep(100)

if __name__ == "__main__":
    loader = DataLoader(Stamped(doze), num_workers=2, persistent_workers={persistent})
    iterator = iter(loader)
    next(iterator)
    {ending}
"""
    finished = run(script, tmp_path, limit_s=30)
    assert finished.code == code
    assert finished.errors.count("Traceback") == ("raise" in ending)


def test_interrupted_program_prints_one_traceback(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group; only the consumer answers."""
    script = f"""{PRELUDE}
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loader = DataLoader(Stamped(lambda index: time.sleep(0.05)), num_workers=2)
    for batch in loader:
        print("batch", flush=True)
"""
    program = Program(script, tmp_path)
    try:
        program.read_line()
        os.killpg(program.process.pid, signal.SIGINT)
        finished = program.wait(20)
        assert not program.others_after(1)
    finally:
        program.kill_all()
    assert finished.errors.count("Traceback") == 1
    assert finished.errors.strip().endswith("KeyboardInterrupt")
