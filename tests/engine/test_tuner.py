"""The tuner's decisions, on figures: no process is started."""

from fastload.tuner import Choice, Limits, Seen, Tuner


def seen(choice, rate, stall, *, load=0.01, cpu=0.01, step=0.0, reorder=0.0, size=1000):
    return Seen(choice, rate, stall, load, cpu, step, reorder, size)


def play(tuner, answer):
    """Let the tuner try settings until it settles; returns those it tried."""
    tried = []
    while not tuner.is_settled:
        tried.append(tuner.choice)
        tuner.observe(answer(tuner.choice))
        assert len(tried) < 20
    return tried


def test_a_step_that_does_not_wait_needs_no_workers():
    """The measurement without workers already says so."""
    tuner = Tuner(Limits(cores=8))
    assert play(tuner, lambda c: seen(c, 100, 0.02, step=0.5)) == [Choice(0, 2)]
    assert tuner.choice.workers == 0
    assert "waits 2.0%" in str(tuner)


def test_workers_are_as_many_as_feed_the_step():
    """Loading takes four times the step: five workers, a tenth more than needed."""
    tuner = Tuner(Limits(cores=8))

    def answer(choice):
        if not choice.workers:
            return seen(choice, 20, 0.8, load=0.04, cpu=0.04, step=0.01)
        return seen(choice, 100, 0.01, load=0.04, cpu=0.04, step=0.01)

    assert play(tuner, answer) == [Choice(0, 2), Choice(5, 2)]
    assert tuner.choice.workers == 5


def test_loads_that_compute_get_no_more_workers_than_cores():
    """More processes than cores would only take turns."""
    tuner = Tuner(Limits(cores=4))
    tried = play(tuner, lambda c: seen(c, 10 * max(1, c.workers), 0.9))
    assert max(choice.workers for choice in tried) == 4


def test_loads_that_wait_get_more_workers_than_cores():
    """Waiting needs no core."""
    tuner = Tuner(Limits(cores=2))
    play(tuner, lambda c: seen(c, 10 * max(1, c.workers), 0.9, cpu=0.0001))
    assert tuner.choice.workers == 16


def test_workers_that_bring_nothing_are_sent_home():
    """In-memory datasets are often faster without workers."""
    tuner = Tuner(Limits(cores=4))
    play(tuner, lambda c: seen(c, 50 if c.workers else 100, 0.9))
    assert tuner.choice.workers == 0
    assert "0.50 times" in str(tuner)


def test_it_grows_until_the_step_no_longer_waits():
    """Doubling stops at the first number that feeds the step."""
    tuner = Tuner(Limits(cores=16))

    def answer(choice):
        rate = min(100.0, 10.0 * max(1, choice.workers))
        stall = 1 - rate / 101
        return seen(choice, rate, stall, load=0.02, step=0.01)

    tried = play(tuner, answer)
    assert [choice.workers for choice in tried] == [0, 3, 6, 12]
    assert tuner.choice.workers == 12


def test_memory_limits_the_workers():
    """Each is expected to need its own part, and its batches."""
    limits = Limits(cores=16, memory_bytes=3 * (64 << 20) + 6 * 1000)
    tuner = Tuner(limits)
    tried = play(tuner, lambda c: seen(c, 10 * max(1, c.workers), 0.9))
    assert max(choice.workers for choice in tried) == 3


def test_prefetch_grows_where_slow_batches_hold_up_others():
    """Only if it was left open."""
    for prefetch, largest in ((None, 8), (2, 2)):
        tuner = Tuner(Limits(cores=2, prefetch=prefetch))

        def answer(choice):
            return seen(choice, 10 * (1 + choice.workers) * choice.prefetch, 0.9, reorder=0.1)

        play(tuner, answer)
        assert tuner.choice == Choice(2, largest)


def test_a_fixed_number_of_workers_stays():
    """Then only the prefetch factor is open."""
    tuner = Tuner(Limits(cores=8, least=3, most=3))
    tried = play(tuner, lambda c: seen(c, 10 * c.prefetch, 0.9, reorder=0.1))
    assert {choice.workers for choice in tried} == {3}


def test_epochs_that_are_short_get_no_workers_that_start_anew():
    """Starting processes would cost more than they save."""
    tuner = Tuner(Limits(cores=8, epoch_batches=4))
    play(tuner, lambda c: seen(c, 100, 0.9))
    assert tuner.choice.workers == 0
    assert "persistent_workers" in str(tuner)
