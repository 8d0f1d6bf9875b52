"""Workers that are forked while another thread imports something: none hangs."""

import importlib
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from torch.utils.data import Dataset

import fastload
from fastload._system import imports

DEADLINE_S = 240


class Importing(Dataset):
    """Imports a module when it loads a sample."""

    def __init__(self, name):
        self.name = name

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return getattr(importlib.import_module(self.name), "value", "not there yet")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module of a text; it can be imported here and in workers."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        made.append(name)
        return name

    yield make
    for name in made:
        sys.modules.pop(name, None)


def importing(name):
    """A thread that has begun to import a module."""
    thread = threading.Thread(target=importlib.import_module, args=(name,))
    thread.start()
    while name not in sys.modules:
        time.sleep(0.001)
    return thread


def test_workers_have_what_another_thread_was_importing(module):
    """The fork waits until the module is whole."""
    name = module("slow_to_import", "import time; time.sleep(0.5); value = 7")
    thread = importing(name)
    batches = list(fastload.DataLoader(Importing(name), num_workers=2, collate_fn=list))
    thread.join()
    assert batches == [[7]] * 4


def test_an_import_that_does_not_end_stops_no_worker(module, monkeypatch):
    """As that of a program that trains at import time: workers see what is there so far."""
    monkeypatch.setattr(imports, "LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr(imports, "LONGEST_WAIT_IN_FORK_S", 0.1)
    name = module("never_imported", "import test_imports_gate; test_imports_gate.wait(); value = 7")
    gate = threading.Event()
    monkeypatch.setitem(sys.modules, "test_imports_gate", gate)
    thread = importing(name)
    try:
        for _ in range(2):
            batches = list(fastload.DataLoader(Importing(name), num_workers=2, collate_fn=list))
            assert batches == [["not there yet"]] * 4
    finally:
        gate.set()
        thread.join()


def test_an_import_that_waits_for_this_thread_is_not_waited_for(module, monkeypatch):
    """Two threads that import each other's modules would otherwise wait for one another."""
    found = []
    gate = threading.Event()
    monkeypatch.setitem(sys.modules, "test_imports_gate", gate)
    monkeypatch.setitem(sys.modules, "test_imports_found", found)
    other = module("needs_the_outer", "import outer_module")
    text = f"""
        import threading, time, importlib
        import test_imports_found as found
        from fastload._system import imports
        from importlib import _bootstrap
        thread = threading.Thread(target=importlib.import_module, args=({other!r},))
        thread.start()
        while thread.ident not in _bootstrap._blocking_on:
            time.sleep(0.001)
        found.append(imports._imports_elsewhere())
    """
    name = module("outer_module", text)
    outer = importlib.import_module(name)
    outer.thread.join()
    assert found == [set()]


PROGRAM = """
    import sys, threading, time
    from torch.utils.data import Dataset
    from fastload import DataLoader

    class Numbers(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return index

    def unordered():  # any order that is not torch's own
        assert len(list(DataLoader(Numbers(), batch_size=None, num_workers=1))) == 8

    def ordered():
        time.sleep(float(sys.argv[1]))
        assert len(list(DataLoader(Numbers(), batch_size=2, num_workers=2))) == 4

    threads = [threading.Thread(target=each) for each in (unordered, ordered)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


@pytest.mark.parametrize("delay_s", [0, 0.002, 0.008])
def test_two_threads_may_begin_an_epoch_at_once(delay_s):
    """In a fresh process, in which torch and NumPy have not imported all they need."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM), str(delay_s)],
        check=True,
        timeout=DEADLINE_S,
    )
