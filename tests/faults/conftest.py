"""Cases run two at a time, each in processes of its own; tests wait for their own case."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.faults.case import Case
from tests.faults.nursery import Nursery
from tests.faults.process import Outcome, try_out

AT_ONCE = 2


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """Each case counts what it left itself; the next one is a child of this process already."""


@pytest.fixture(scope="package")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Outcome]]]:
    """The outcome of every case that this session has collected, as it comes."""
    with Nursery() as nursery, ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            case.name: pool.submit(try_out, case, "fastload", nursery)
            for case in _collected(request.session.items)
        }
        pool.shutdown(cancel_futures=True)


def _collected(items: list[pytest.Item]) -> list[Case]:
    cases = [item.callspec.params.get("case") for item in items if hasattr(item, "callspec")]
    return [case for case in cases if isinstance(case, Case) and case.needs() is None]
