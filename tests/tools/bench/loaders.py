"""Loaders with a fault, for the benchmark to find."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

PIDS_FILE = "TEST_HANGING_PIDS"


class Swapped(DataLoader[Any]):
    """Gives the second batch first."""

    def __iter__(self) -> Any:
        first, second, *rest = list(super().__iter__())
        return iter([second, first, *rest])


class Raising(DataLoader[Any]):
    """Raises instead of loading."""

    def __iter__(self) -> None:  # type: ignore[override]
        raise RuntimeError("this loader does not load")


class HangingWhenMeasured(DataLoader[Any]):
    """Loads the few batches that are compared; in long epochs starts a process and hangs."""

    def __iter__(self) -> Any:
        if len(self.dataset) < 10_000:  # type: ignore[arg-type]
            return super().__iter__()
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(os.environ[PIDS_FILE]).write_text(f"{os.getpid()} {helper.pid}")
        time.sleep(600)
        raise AssertionError
