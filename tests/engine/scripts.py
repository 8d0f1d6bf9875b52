"""Run a program in a fresh process and its own session, and see what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

TAG = "FASTLOAD_TEST_TAG"


class Finished(NamedTuple):
    """How a program ended."""

    code: int
    output: str
    errors: str


class Program:
    """A script that runs; its processes are known by a tag in their environment."""

    def __init__(self, script: str, folder: Path, wrapper: Sequence[str] = ()) -> None:
        path = folder / "program.py"
        path.write_text(script)
        self._tag = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-X", "faulthandler", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, TAG: self._tag},
            start_new_session=True,
        )

    def read_line(self) -> str:
        """The next line the program prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait(self, limit_s: float = 60) -> Finished:
        """Wait for the end of the program; it is killed and failed after ``limit_s``."""
        try:
            output, errors = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.kill_all()
            output, errors = self.process.communicate()
            raise AssertionError(f"hung; it printed:\n{output}\n{errors}") from None
        return Finished(self.process.returncode, output, errors)

    def others(self) -> list[psutil.Process]:
        """Every process with the program's tag but the program itself, zombies excepted."""
        found = []
        for process in psutil.process_iter():
            try:
                tagged = process.environ().get(TAG) == self._tag
                if tagged and process.pid != self.process.pid and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def others_after(self, limit_s: float) -> list[psutil.Process]:
        """Those that are still there after ``limit_s``."""
        deadline = time.monotonic() + limit_s
        while (left := self.others()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left

    def kill_all(self) -> None:
        """End everything that carries the tag."""
        self.process.kill()
        for process in self.others():
            with contextlib.suppress(psutil.Error):
                process.kill()


def run(script: str, folder: Path, *, wrapper: Sequence[str] = (), limit_s: float = 60) -> Finished:
    """Run a script to its end; fail if it hangs or leaves a process behind."""
    program = Program(script, folder, wrapper)
    try:
        finished = program.wait(limit_s)
        assert not program.others_after(3), "processes were left behind"
        return finished
    finally:
        program.kill_all()
