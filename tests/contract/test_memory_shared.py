"""Batches that are shared with other processes stay what they were, here and there."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from .datasets import Made, Numbers, Stamped
from .forks import Forked, needs_fork
from .ways import AS_RETURNED, better_than_torch, with_workers

HANG_S = 240


def _is_stamped(batch, number):
    return bool((torch.as_tensor(batch) == number).all())


def _read_on(iterator, start):
    """Load the rest of an epoch, so that every slot is written again."""
    count = start
    for batch in iterator:
        assert _is_stamped(batch, count)
        count += 1
    return count


@needs_fork
@pytest.mark.parametrize("held_as", ["tensor", "array"])
def test_forked_child_sees_old_values_of_a_held_batch(make_loader, held_as):
    """A child of the consumer may read what the parent held, while the parent goes on."""
    iterator = iter(make_loader(Stamped(80)))
    for _ in range(3):
        held = [next(iterator)]
    if held_as == "array":
        held[0] = held[0].numpy()[:, 3:]
    child = Forked(lambda: np.asarray(held[0]).tolist())
    held.clear()
    assert _read_on(iterator, 3) == 80
    is_fine, seen = child.result()
    assert is_fine, seen
    assert {value for row in seen for value in row} == {2.0}


@needs_fork
def test_forked_child_may_drop_a_held_batch(make_loader):
    """What a child drops is still held by the parent."""
    iterator = iter(make_loader(Stamped(80)))
    held = [next(iterator), next(iterator)]
    child = Forked(held.clear)
    assert child.result() == (True, None)
    assert _read_on(iterator, 2) == 80
    assert _is_stamped(held[0], 0)
    assert _is_stamped(held[1], 1)


@needs_fork
@with_workers
@better_than_torch("a child that uses its parent's iterator takes the parent's batches")
def test_iterator_used_in_a_forked_child_is_an_error_there(make_loader):
    """A live iterator belongs to its process; in a child it raises and harms nobody."""
    iterator = iter(make_loader(Stamped(40)))
    assert _is_stamped(next(iterator), 0)
    is_fine, text = Forked(lambda: next(iterator)).result()
    assert not is_fine
    assert "StopIteration" not in text
    assert _read_on(iterator, 1) == 40


@needs_fork
@with_workers
def test_child_that_exits_with_a_live_iterator_harms_nobody(make_loader):
    """A forked child may end, running its clean-up, while the parent loads."""
    loader = make_loader(Stamped(40))
    iterator = iter(loader)
    assert _is_stamped(next(iterator), 0)
    local = [iterator]
    assert Forked(local.clear).result() == (True, None)
    assert _read_on(iterator, 1) == 40


@needs_fork
def test_forked_child_may_use_the_loader_anew(way, make_loader):
    """A child of the consumer may start an epoch of its own."""
    if way.is_torch and way.is_persistent:
        pytest.skip("the child would find its parent's iterator")
    loader = make_loader(Numbers(6), batch_size=2)

    def load():
        return [batch.tolist() for batch in loader]

    expected = [[0, 1], [2, 3], [4, 5]]
    assert load() == expected
    assert Forked(load).result() == (True, expected)
    assert load() == expected


@with_workers
@pytest.mark.leaves("memfd:fastload")  # Nobody can know when such an alias is gone.
@pytest.mark.parametrize("count", [4, 40])
@pytest.mark.parametrize("kind", ["numpy", "slice", "view", "detach"])
@AS_RETURNED
def test_share_memory_leaves_older_aliases_alone(make_loader, kind, count):
    """After share_memory_() an alias taken before still shows the batch, however many there are."""
    take = {
        "numpy": lambda b: b.numpy(),
        "slice": lambda b: b.numpy()[:, 4:],
        "view": lambda b: b[:, 2:],
        "detach": lambda b: b.detach(),
    }[kind]
    iterator = iter(make_loader(Stamped(80)))
    aliases = []
    for number in range(count):
        batch = next(iterator)
        aliases.append(take(batch))
        assert batch.share_memory_() is batch
        assert batch.is_shared()
        assert _is_stamped(batch, number)
        del batch
    assert _read_on(iterator, count) == 80
    for number, alias in enumerate(aliases):
        assert _is_stamped(alias, number), f"alias of batch {number}: {alias}"


def _answer(questions, answers):
    while (batch := questions.get()) is not None:
        answers.put(batch.sum().item())
        del batch


@needs_fork
@with_workers
@pytest.mark.leaves("memfd:fastload")
@AS_RETURNED
def test_batch_sent_through_a_queue_arrives(make_loader):
    """A batch put on torch's queue reaches another process; older aliases here stay valid."""
    context = mp.get_context("fork")
    questions, answers = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=_answer, args=(questions, answers))
    process.start()
    aliases = []
    for number, batch in enumerate(make_loader(Stamped(40))):
        aliases.append(batch.numpy())
        questions.put(batch)
        assert answers.get() == 16.0 * number
        assert _is_stamped(batch, number)
    questions.put(None)
    process.join(HANG_S)
    process.close()
    for queue in (questions, answers):
        queue.close()
    for number, alias in enumerate(aliases):
        assert _is_stamped(alias, number), f"alias of batch {number}: {alias}"


def _descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts in /proc")
def test_many_kept_batches_cost_no_descriptors(way, make_loader):
    """Keeping batches opens no files (torch's workers: one for each tensor)."""
    if way.is_torch:
        pytest.skip("better than torch: each tensor of a kept batch keeps a file open")
    loader = make_loader(Made(300, lambda k: [torch.ones(3)] * 3))
    iterator = iter(loader)
    kept = [next(iterator)]
    before = _descriptors()
    kept += iterator
    assert len(kept) == 300
    assert _descriptors() <= before + 2
