"""Cases run two at a time, each in processes of its own; tests wait for their own case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.faults.case import PATIENCE, Case
from tests.faults.nursery import Nursery
from tests.faults.process import Outcome, try_out

AT_ONCE = 2
TIMES_AS_LONG = 4
"""As the page says: what hangs does so for ever, and a busy machine is slow."""
NEXT = pytest.StashKey[pytest.Item | None]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    item.stash[NEXT] = nextitem


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """Each case counts what it left itself; the next one is a child of this process already."""


@pytest.fixture(scope="package")
def begin() -> Iterator[Callable[[Case], Future[Outcome]]]:
    """Begin a case, unless it was begun already."""
    begun: dict[str, Future[Outcome]] = {}
    with pytest.MonkeyPatch.context() as patch, ExitStack() as opened:
        patch.setenv(PATIENCE, str(TIMES_AS_LONG))
        nursery = opened.enter_context(Nursery())
        pool = opened.enter_context(ThreadPoolExecutor(AT_ONCE))

        def begin(case: Case) -> Future[Outcome]:
            if case.name not in begun:
                begun[case.name] = pool.submit(try_out, case, "fastload", nursery)
            return begun[case.name]

        yield begin
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def outcome(
    request: pytest.FixtureRequest, case: Case, begin: Callable[[Case], Future[Outcome]]
) -> Outcome:
    """The outcome of this test's case; that of the next test runs meanwhile."""
    if (reason := case.needs()) is not None:
        pytest.skip(reason)
    mine = begin(case)
    if (following := _case_of(request.node.stash[NEXT])) is not None:
        begin(following)
    return mine.result()


def _case_of(item: pytest.Item | None) -> Case | None:
    parameters = getattr(item, "callspec", None)
    case = parameters.params.get("case") if parameters else None
    return case if isinstance(case, Case) and case.needs() is None else None
