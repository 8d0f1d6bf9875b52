"""Run a case in a fresh process and its own session, and see what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.faults.case import Case, patient
from tests.faults.nursery import Nursery

ROOT = Path(__file__).parents[2]
READY_AFTER_S = 90
GONE_AFTER_S = 1.0
SERVERS = ("resource_tracker", "forkserver")


@dataclass
class Outcome:
    """What came of a fault."""

    text: str
    errors: str = ""
    elapsed_s: float = 0.0
    is_hung: bool = False
    left: list[str] = field(default_factory=list)


class Program:
    """A case that runs. It leads a session, by which its processes are known."""

    def __init__(self, case: Case, loader: str, nursery: Nursery) -> None:
        read, write = os.pipe()
        self._output, self._said = read, b""
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in `close`)
        command = [sys.executable, "-W", "ignore", "-m", "tests.faults.trial", loader, case.name]
        if case.wrapper:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                [*case.wrapper, *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=self._errors,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
            self.pid, self._code = self._process.pid, os.pidfd_open(self._process.pid)
        else:
            self._process = None
            self.pid, self._code = nursery.start(loader, case.name, write, self._errors.fileno())
        os.close(write)

    def read_line(self, limit_s: float) -> str:
        """The next line that it prints, or nothing after ``limit_s`` or at its end."""
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._said:
            remaining_s = max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([self._output, self._code], [], [], remaining_s)
            if ready and self._output not in ready:  # it ended; its last words may be there still
                ready, _, _ = select.select([self._output], [], [], 0)
            piece = os.read(self._output, 1 << 16) if self._output in ready else b""
            if not piece:
                return ""
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def wait(self, limit_s: float) -> int | None:
        """Its exit code, or None if it has not ended."""
        ready, _, _ = select.select([self._code], [], [], limit_s)
        if not ready:
            return None
        return int(os.read(self._code, 64)) if self._process is None else self._process.wait()

    def others(self) -> list[psutil.Process]:
        """Every process of its session but itself, zombies and multiprocessing's servers."""
        found = []
        for process in self._all():
            with contextlib.suppress(psutil.Error):
                if process.status() != "zombie" and not _is_server(process):
                    found.append(process)
        return found

    def _all(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == self.pid != process.pid:
                    found.append(process)
        return found

    def others_after(self, limit_s: float) -> list[psutil.Process]:
        """Those that are still there after ``limit_s``."""
        deadline = time.monotonic() + limit_s
        while (left := self.others()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def close(self) -> str:
        """End everything of its session; what was printed to stderr."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        for process in self._all():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self._process is not None:
            self._process.wait()
        os.close(self._code)
        os.close(self._output)
        self._errors.seek(0)
        with self._errors:
            return self._errors.read()


def _is_server(process: psutil.Process) -> bool:
    """A worker of a fork server has the server's command line; both loaders name their workers."""
    is_worker = process.name() == "pt_data_worker"
    return not is_worker and any(server in " ".join(process.cmdline()) for server in SERVERS)


def try_out(case: Case, loader: str, nursery: Nursery, deadline_s: float | None = None) -> Outcome:
    """Run a case to its end or its deadline."""
    deadline_s = patient(case.deadline_s if deadline_s is None else deadline_s)
    files_before = _shared_memory_files()
    program = Program(case, loader, nursery)
    outcome = Outcome("did not start")
    try:
        if program.read_line(READY_AFTER_S) == "ready":
            outcome = _observe(program, deadline_s)
            outcome.left += [f"file {name}" for name in _left_files(files_before, program)]
    finally:
        outcome.errors = program.close()
    return outcome


def _observe(program: Program, deadline_s: float) -> Outcome:
    started = time.monotonic()
    line = program.read_line(deadline_s)
    code = program.wait(max(deadline_s - (time.monotonic() - started), 1) if line else 0.2)
    elapsed_s = time.monotonic() - started
    said: dict[str, Any] = json.loads(line) if line else {}
    text, left = said.get("outcome", ""), said.get("left", [])
    if code is None:
        text = f"{text} - then hangs at exit" if line else "hangs"
        return Outcome(text, "", elapsed_s, is_hung=True, left=left)
    if not line:
        text = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    elif code != 0:
        text += f" - exit code {code}"
    left += [f"process {process.name()}" for process in program.others_after(patient(GONE_AFTER_S))]
    return Outcome(text, "", said.get("elapsed_s", elapsed_s), left=left)


def _shared_memory_files() -> set[str]:
    folder = Path("/dev/shm")
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def _left_files(before: set[str], program: Program) -> list[str]:
    """Torch's files carry the process id that made them; others are somebody else's."""
    new = _shared_memory_files() - before
    return sorted(name for name in new if f"_{program.pid}_" in name)
