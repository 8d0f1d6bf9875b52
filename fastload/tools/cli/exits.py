"""The exit codes of all commands, and what leads to the rarer ones."""

from enum import IntEnum


class Exit(IntEnum):
    """What the exit code of `fastload` means."""

    OK = 0
    BAD = 1  # the command ran, and its answer is bad
    USAGE = 2
    RAISED = 3  # what was run raised
    ENVIRONMENT = 4  # this environment cannot run it
    INTERRUPTED = 130
    PIPE_CLOSED = 141  # nobody reads the answer; what a shell says of a program that SIGPIPE ended


class EnvironmentLacks(Exception):  # noqa: N818 - a state of the environment, not an error of ours
    """Something that a command needs is not installed here; the message says how to get it."""


def lacking(modules: list[str], extra: str) -> EnvironmentLacks:
    """Return the exception for modules that one of fastload's extras would install."""
    return EnvironmentLacks(
        f"{', '.join(modules)} not installed; get what is missing with "
        f"pip install 'fastload[{extra}]'"
    )
