"""The errors that fastload itself raises; what user code raises keeps its own type.

Each derives from what torch raises in the same place, so ``except`` clauses keep working::

    Exception
    └── FastloadError
        ├── WorkerError           (RuntimeError)  a worker's exception that could not be sent
        ├── WorkerDied            (RuntimeError)  a worker process was killed, crashed or left
        ├── TooManyErrors         (RuntimeError)  more than max_errors samples failed
        ├── LoadingTimeout        (RuntimeError)  no batch within timeout seconds
        ├── LoadingInterrupted    (RuntimeError)  Ctrl-C or a signal handler hit a batch half-way
        ├── ForeignProcessError   (RuntimeError)  an iterator was used in a forked child
        ├── CollateError          (RuntimeError)  samples don't fit into one batch
        └── CorruptDataError      (ValueError)    a file is damaged
"""

from __future__ import annotations

from fastload._system.interruptions import is_from_outside, own_suppressed


class FastloadError(Exception):
    """Base of every error that fastload itself raises."""


class WorkerError(FastloadError, RuntimeError):
    """A worker raised an exception that could not be sent; the text says what it was."""


class WorkerDied(FastloadError, RuntimeError):  # noqa: N818  (what happened, in a word)
    """A worker process ended while batches were still expected of it.

    Attributes:
        worker_id: Number of the worker, from 0.
        exitcode: As ``multiprocessing.Process.exitcode``: negative for a signal, None if unknown.
    """

    def __init__(self, message: str, worker_id: int = -1, exitcode: int | None = None) -> None:
        super().__init__(message)
        self.worker_id = worker_id
        self.exitcode = exitcode


class TooManyErrors(FastloadError, RuntimeError):  # noqa: N818  (as above)
    """More samples of an epoch could not be loaded than ``max_errors`` allows."""


class LoadingTimeout(FastloadError, RuntimeError):  # noqa: N818  (as above)
    """No batch arrived within ``timeout`` seconds; calling ``next`` again goes on waiting."""


class LoadingInterrupted(FastloadError, RuntimeError):  # noqa: N818  (as above)
    """An exception from outside (Ctrl-C, a signal handler) hit the loader between two states.

    Where a batch was on its way is not known any more; ``iter(loader)`` begins a new epoch.
    """


class ForeignProcessError(FastloadError, RuntimeError):
    """An iterator was used in a process other than the one that created it."""


class CollateError(FastloadError, RuntimeError):
    """The samples of a batch can't be padded or packed as they are.

    Attributes:
        position: Of the sample in its batch, from 0; None if it is not about one sample.
        compared_with: Position of the sample it was held against, or None.
    """

    def __init__(
        self, message: str, position: int | None = None, compared_with: int | None = None
    ) -> None:
        super().__init__(message)
        self.position = position
        self.compared_with = compared_with


class CorruptDataError(FastloadError, ValueError):
    """A file is damaged: its content is not what was written, or its end is missing.

    Attributes:
        path: The file.
        row_group: Number of the row group or record batch in the file, from 0; None if it is the
            file as a whole.
        rows: First row in the file that is affected and the one after the last; None if unknown.
        offset: Of a tar archive: the byte at which the damage was seen; None if unknown.
    """

    def __init__(
        self,
        message: str,
        path: str = "",
        row_group: int | None = None,
        rows: tuple[int, int] | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.row_group = row_group
        self.rows = rows
        self.offset = offset


class WorkerTraceback(Exception):  # noqa: N818  (it is a text to show, never raised)
    """Set as the cause of an exception from a worker: shows the worker's own traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def show(indices: object, most: int = 200) -> str:
    """Indices for an error message: as they are written, but never long and never an error."""
    try:
        text = repr(indices)
    except Exception as error:  # a user's __repr__
        if is_from_outside(error):
            raise
        text = f"<{type(indices).__name__}>"
    return text if len(text) <= most else f"{text[:most]}…"


def annotate(error: BaseException, note: str) -> None:
    """Attach a line that is shown below the error's own message (Python 3.11 and later)."""
    if hasattr(error, "add_note"):
        with own_suppressed(Exception):  # an exception class may refuse attributes
            error.add_note(note)
