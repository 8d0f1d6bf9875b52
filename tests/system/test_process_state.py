"""What a program has changed for its whole process does not change what is loaded."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fastload._system import cgroups
from tests.start_methods import METHODS

DEADLINE_S = 240


def run(program, folder, *arguments, **options):
    """Run a program in a session of its own; returns how it ended."""
    file = folder / "program.py"
    file.write_text(textwrap.dedent(program))
    return subprocess.run(
        [sys.executable, "-W", "ignore", file, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        start_new_session=True,
        **options,
    )


CHANGED = """
    import os, sys
    import torch
    from torch.utils.data import Dataset
    from fastload import DataLoader

    class Rows(Dataset):
        def __init__(self, mark):
            self.rows = torch.arange(32, dtype=torch.float32).reshape(16, 2)
            self.mark = mark

        def __len__(self):
            return 16

        def __getitem__(self, index):
            if index == 9 and not os.path.exists(self.mark):
                open(self.mark, "w").close()
                os._exit(1)
            return {"row": self.rows[index], "number": index}

    if __name__ == "__main__":
        method, folder = sys.argv[1:]
        dataset = Rows(os.path.join(folder, "mark"))
        loader = DataLoader(
            dataset, batch_size=4, num_workers=2, multiprocessing_context=method,
            max_worker_restarts=1,
        )
        os.makedirs(os.path.join(folder, "elsewhere"))
        os.chdir(os.path.join(folder, "elsewhere"))
        os.environ.clear()
        os.umask(0o777)
        torch.set_default_dtype(torch.float64)
        for epoch in range(2):
            batches = list(loader)
            rows = torch.cat([batch["row"] for batch in batches])
            numbers = [number for batch in batches for number in batch["number"].tolist()]
            assert numbers == list(range(16)), numbers
            assert rows.dtype == torch.float32 and rows.device.type == "cpu"
            assert torch.equal(rows, dataset.rows)
        print("whole")
"""


@pytest.mark.parametrize("method", METHODS)
def test_folder_umask_environment_and_dtype_change_nothing(method, tmp_path):
    """Changed between the loader and its first epoch, and before a worker is started again."""
    ended = run(CHANGED, tmp_path, method, tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "whole\n"), ended.stderr


GROUP_SIGNAL = """
    import os, signal, sys, time
    from torch.utils.data import Dataset
    from fastload import DataLoader

    class Numbers(Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, index):
            time.sleep(0.01)
            return index

    if __name__ == "__main__":
        arrived = []
        signal.signal(signal.SIGINT, lambda *_: arrived.append(1))
        loader = DataLoader(
            Numbers(), batch_size=4, num_workers=2, multiprocessing_context=sys.argv[1],
        )
        iterator = iter(loader)
        os.killpg(0, signal.SIGINT)  # spawned workers are just starting their interpreters
        found = []
        for batch in iterator:
            os.killpg(0, signal.SIGINT)
            found += batch.tolist()
        assert found == list(range(64)), found
        assert len(arrived) > 1
        print("whole")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_interrupt_of_the_whole_group_is_the_training_loops_alone(method, tmp_path):
    """As a terminal or a scheduler sends it: workers go on, also those that have just begun."""
    ended = run(GROUP_SIGNAL, tmp_path, method)
    assert (ended.returncode, ended.stdout) == (0, "whole\n"), ended.stderr


GROUP_NAME = """
    import sys
    from pathlib import Path
    from fastload._system import cgroups
    print(cgroups.cpu_quota_cores(Path(sys.argv[1])))
"""


def test_the_name_of_a_control_group_may_hold_any_bytes(tmp_path):
    """In a program whose locale knows ASCII alone, too."""
    name = b"t\xe9st-\xc3\xa9"
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_bytes(b"0::/" + name + b"\n")
    group = Path(os.fsdecode(bytes(tmp_path / "sys/fs/cgroup") + b"/" + name))
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("150000 100000\n")
    assert cgroups.cpu_quota_cores(tmp_path) == 1.5
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = run(GROUP_NAME, tmp_path, tmp_path, env=plain)
    assert (ended.returncode, ended.stdout) == (0, "1.5\n"), ended.stderr


LEAVES_AN_EPOCH = """
    import sys
    import torch
    import fastload

    class Rows:
        def __len__(self):
            return 4096

        def __getitem__(self, index):
            return {"ids": torch.zeros(3 + index % 5)}

    options = {"seed": 0} if sys.argv[1] == "seed" else {}
    collate = fastload.PadDict()
    loader = fastload.DataLoader(Rows(), 32, collate_fn=collate, num_workers=2, **options)
    batches = iter(loader)
    batch = next(batches)
"""


@pytest.mark.parametrize("how", ["plain", "seed"])
def test_a_program_that_ends_within_an_epoch_says_nothing(how, tmp_path):
    """Whatever is left is taken down while Python takes itself apart."""
    ended = run(LEAVES_AN_EPOCH, tmp_path, how)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
