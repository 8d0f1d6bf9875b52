"""`fastload run --live` and `loader.watch()` on a real terminal, and where there is none."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, sys, time
import torch.utils.data
from torch.utils.data import DataLoader

if __name__ == "__main__":
    sys.stdout.write("no newline yet ")
    sys.stdout.flush()
    for number, batch in enumerate(DataLoader(list(range(160)), batch_size=4, num_workers=2)):
        time.sleep(0.03)
        print("step", number, batch.tolist(), flush=True)
        os.write(2, b"from C\\n")
    if "--wait" in sys.argv:
        time.sleep(60)
    sys.exit(7)
"""

WATCHED = """
import time
import fastload

with fastload.DataLoader(list(range(120)), batch_size=4) as loader:
    with loader.watch(), loader.watch():
        for batch in loader:
            time.sleep(0.05)
print("done")
"""

# What a terminal is told to do; everything else is text.
CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[78D])")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


class Terminal:
    """A program on a pseudo-terminal; `screen` is every byte it sent there."""

    def __init__(self, *command: str, stdout_too: bool = True, columns: int = 100, **more: str):
        self.leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *command],
            stdin=follower,
            stdout=follower if stdout_too else subprocess.PIPE,
            stderr=follower,
            start_new_session=True,
            env={**environment, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **more},
        )
        os.close(follower)
        self.screen = ""

    def read_until(self, words: str) -> None:
        while words not in self.screen and self._read():
            pass
        assert words in self.screen

    def finish(self) -> int:
        stdout = self.process.stdout
        while self._read():
            pass
        self.stdout = stdout.read().decode() if stdout else ""
        if stdout:
            stdout.close()
        os.close(self.leader)
        return self.process.wait()

    def _read(self) -> bool:
        try:
            content = os.read(self.leader, 65536)
        except OSError:  # on Linux, how a terminal ends whose programs have ended
            return False
        self.screen += content.decode()
        return bool(content)


def lines_of(text: str) -> list[str]:
    return [line for line in text.replace("\r\n", "\n").splitlines() if line.startswith("step ")]


def test_terminal_shows_how_loading_goes(program: Path) -> None:
    """Verdict, waiting, throughput and depth of the queue; the exit code is the program's."""
    terminal = Terminal("-m", "fastload", "run", "--live", str(program))
    assert terminal.finish() == 7
    assert re.search(r"(not|moderately|highly)\s+input-bound", CONTROL.sub("", terminal.screen))
    assert re.search(r"waits \d+%  [\d,]+ samples/s  \d\.\d batches ready", terminal.screen)


def test_program_writes_what_it_writes_alone(program: Path) -> None:
    """On the same terminal: without the display's own sequences every byte is the program's."""
    alone = Terminal(str(program))
    assert alone.finish() == 7
    shown = Terminal("-m", "fastload", "run", "--live", str(program))
    shown.finish()
    # Each picture is one write: place, erase, text, back.
    without = re.sub(r"\x1b7\x1b\[(r\x1b\[)?24;1H.*?\x1b8", "", shown.screen, flags=re.DOTALL)
    without = without.replace("\x1bD\x1b7\x1b[1;23r\x1b8\x1b[1A", "")
    _, _, theirs = without.partition("\r\n")  # what was replaced
    theirs, _, _ = theirs.partition("fastload: 40 batches")  # the summary
    assert theirs == alone.screen


def test_stdout_in_a_pipe_is_the_same_to_the_byte(program: Path) -> None:
    """Only stderr is a terminal: the display is there, and not in the pipe."""
    alone = Terminal(str(program), stdout_too=False)
    alone.finish()
    shown = Terminal("-m", "fastload", "run", "--live", str(program), stdout_too=False)
    assert shown.finish() == 7
    assert "input-bound" in shown.screen
    assert shown.stdout == alone.stdout


def test_terminal_that_cannot_move_its_cursor_is_left_alone(program: Path) -> None:
    """Not a single sequence is sent."""
    terminal = Terminal("-m", "fastload", "run", "--live", str(program), TERM="dumb")
    assert terminal.finish() == 7
    assert "\x1b" not in terminal.screen
    assert "40 batches, 160 samples" in terminal.screen


def test_without_a_terminal_nothing_is_shown(program: Path) -> None:
    """In a log file there are no pictures, only the summary."""
    command = [sys.executable, "-W", "ignore", "-m", "fastload", "run", "--live", str(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 7
    assert "\x1b" not in result.stderr + result.stdout
    assert "input-bound" not in result.stderr
    assert lines_of(result.stdout)[-1].startswith("step 39 ")


def test_narrow_terminal_without_colors_gets_one_plain_line(program: Path) -> None:
    """Of 40 columns none is exceeded, or the line would scroll; NO_COLOR is obeyed."""
    command = ("-m", "fastload", "run", "--live", str(program))
    terminal = Terminal(*command, columns=40, NO_COLOR="1")
    assert terminal.finish() == 7
    assert "input-bound" in terminal.screen
    assert not re.search(r"\x1b\[3[0-9]m", terminal.screen)
    pictures = re.findall(r"\x1b\[2K(.*?)\x1b8", terminal.screen, flags=re.DOTALL)
    assert pictures
    assert all(len(CONTROL.sub("", picture)) < 40 for picture in pictures)


def test_interrupt_gives_the_terminal_back(program: Path) -> None:
    """Ctrl-C: exit code 130, the margins are reset, the last line is empty, nobody is left."""
    terminal = Terminal("-m", "fastload", "run", "--live", str(program), "--wait")
    terminal.read_until("input-bound")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.finish() == 130
    assert terminal.screen.rindex("\x1b[r\x1b[24;1H\x1b[2K") > terminal.screen.rindex("\x1b[1;23r")
    assert "KeyboardInterrupt" in terminal.screen
    assert "runpy" not in terminal.screen


def test_loader_is_watched_in_a_block(tmp_path: Path) -> None:
    """`with loader.watch()`; a second display inside shows nothing; afterwards there is none."""
    script = tmp_path / "watched.py"
    script.write_text(WATCHED)
    terminal = Terminal(str(script))
    assert terminal.finish() == 0
    assert "input-bound" in terminal.screen
    assert terminal.screen.count("\x1b[1;23r") == 1
    assert terminal.screen.rstrip().endswith("done")


def test_watching_without_a_terminal_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where stderr has no descriptor, as in a notebook."""
    import fastload

    loader = fastload.DataLoader(list(range(6)), batch_size=4)
    with loader.watch():
        assert [len(batch) for batch in loader] == [4, 2]
    assert capsys.readouterr() == ("", "")
