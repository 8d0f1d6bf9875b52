"""The rows of the table."""

from tests.faults.cases import (  # noqa: F401  (importing them enters them)
    data,
    deaths,
    exceptions,
    hangs,
    hostile,
    lifecycle,
    parents,
    recovery,
    resources,
    travel,
)
