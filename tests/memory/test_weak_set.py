"""The set of objects that others own."""

from __future__ import annotations

import threading

from fastload._memory.weak_set import WeakSet


class Thing:
    """Compares equal to others, and can't be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def test_objects_are_told_apart_by_identity_and_leave_when_they_end() -> None:
    """Whatever they compare to."""
    living: WeakSet[Thing] = WeakSet()
    first, second = Thing(), Thing()
    living.add(first)
    living.add(second)
    living.add(first)
    assert len(living.all()) == 2
    del first
    assert living.all()[0] is second
    living.discard(second)
    living.discard(second)
    assert living.all() == []


def test_any_thread_may_add_while_another_asks() -> None:
    """Which a loop over a ``WeakSet`` does not survive."""
    living: WeakSet[Thing] = WeakSet()
    is_over = threading.Event()
    failures: list[BaseException] = []

    def add_and_drop() -> None:
        try:
            while not is_over.is_set():
                things = [Thing() for _ in range(50)]
                for thing in things:
                    living.add(thing)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=add_and_drop) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2000):
            for thing in living.all():
                assert type(thing) is Thing
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert not failures
