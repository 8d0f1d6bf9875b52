"""Run a function in a forked child of the test and learn what it returned."""

import os
import pickle
import select
import signal
from collections.abc import Callable
from typing import Any

import pytest

HANG_S = 240

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


class Forked:
    """A forked child that waits for `result()` to be asked for, then runs its function."""

    def __init__(self, function: Callable[[], Any]) -> None:
        go_end, self._go = os.pipe()
        self._result, result_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(function, go_end, result_end)
        os.close(go_end)
        os.close(result_end)

    def _run(self, function: Callable[[], Any], go_end: int, result_end: int) -> None:
        try:
            os.close(self._go)
            os.read(go_end, 1)
            try:
                outcome = (True, function())
            except BaseException as error:
                outcome = (False, f"{type(error).__name__}: {error}")
            with os.fdopen(result_end, "wb") as pipe:
                pickle.dump(outcome, pipe)
        finally:
            os._exit(0)

    def result(self) -> tuple[bool, Any]:
        """Whether the function returned, and what; or what it raised, in words."""
        os.close(self._go)
        readable, _, _ = select.select([self._result], [], [], HANG_S)
        if not readable:
            os.kill(self.pid, signal.SIGKILL)
        with os.fdopen(self._result, "rb") as pipe:
            content = pipe.read()
        os.waitpid(self.pid, 0)
        assert readable, "the forked child hangs"
        return pickle.loads(content)  # type: ignore[no-any-return]
