"""One line at the bottom of a terminal that the program's output does not touch.

Rich's own live display takes over stdout and stderr, which changes what a program prints there.
Here the terminal scrolls only what is above the last line (DECSTBM), so whatever is written, by
Python, C code or workers, goes where it always goes. apt shows its progress in the same way.

Source: https://vt100.net/docs/vt510-rm/DECSTBM.html
"""

from __future__ import annotations

import contextlib
import os

_SAVE, _RESTORE = "\x1b7", "\x1b8"
_ERASE_LINE = "\x1b[2K"


class BottomLine:
    """The last line of a terminal.

    Args:
        descriptor: Of the terminal; it is neither closed nor kept.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rows = 0

    def show(self, text: str) -> None:
        """Show a text on the last line; it may contain colours but must not move the cursor.

        Raises:
            OSError: The terminal is gone.
        """
        rows = os.get_terminal_size(self._descriptor).lines
        if rows < 2:
            return
        reserve = "" if rows == self._rows else self._reserve(rows)
        self._rows = rows
        self._write(f"{reserve}{_SAVE}\x1b[{rows};1H{_ERASE_LINE}{text}\x1b[0m{_RESTORE}")

    def close(self) -> None:
        """Give the line back, empty; nothing happens if the terminal is gone."""
        if self._rows:
            rows, self._rows = self._rows, 0
            with contextlib.suppress(OSError):
                self._write(f"{_SAVE}\x1b[r\x1b[{rows};1H{_ERASE_LINE}{_RESTORE}")

    def _reserve(self, rows: int) -> str:
        """Scroll by a line if the cursor is on the last one, then take that out of scrolling."""
        # Down and up, in the same column (IND, CUU); setting margins moves the cursor to the top.
        return f"\x1bD{_SAVE}\x1b[1;{rows - 1}r{_RESTORE}\x1b[1A"

    def _write(self, text: str) -> None:
        content = text.encode()
        while content:
            content = content[os.write(self._descriptor, content) :]
