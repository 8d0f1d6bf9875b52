"""The tuner's decisions, on figures: no process is started."""

from fastload._autotune.tuner import Choice, Measurement, Tuner, TunerBounds


def seen(choice, rate, stall, *, load=0.01, cpu=0.01, step=0.0, reorder=0.0, idle=0.0, wait=0.0):
    return Measurement(choice, rate, stall, load, cpu, step, reorder, 1000, idle, wait)


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
    tuner = Tuner(TunerBounds(cores=8))
    assert play(tuner, lambda c: seen(c, 100, 0.02, step=0.5)) == [Choice(0, 2)]
    assert tuner.choice.workers == 0
    assert "waits 2.0%" in str(tuner)


def test_workers_are_as_many_as_feed_the_step():
    """Loading takes four times the step: five workers, a tenth more than needed."""
    tuner = Tuner(TunerBounds(cores=8))

    def answer(choice):
        if not choice.workers:
            return seen(choice, 20, 0.8, load=0.04, cpu=0.04, step=0.01)
        return seen(choice, 100, 0.01, load=0.04, cpu=0.04, step=0.01)

    assert play(tuner, answer) == [Choice(0, 2), Choice(5, 2)]
    assert tuner.choice.workers == 5


def test_loads_that_compute_get_no_more_workers_than_cores():
    """More processes than cores would only take turns."""
    tuner = Tuner(TunerBounds(cores=4))
    tried = play(tuner, lambda c: seen(c, 10 * max(1, c.workers), 0.9))
    assert max(choice.workers for choice in tried) == 4


def test_loads_that_wait_get_more_workers_than_cores():
    """Waiting needs no core."""
    tuner = Tuner(TunerBounds(cores=2))
    play(tuner, lambda c: seen(c, 10 * max(1, c.workers), 0.9, cpu=0.0001))
    assert tuner.choice.workers == 16


def test_workers_that_bring_nothing_are_sent_home():
    """In-memory datasets are often faster without workers."""
    tuner = Tuner(TunerBounds(cores=4))
    play(tuner, lambda c: seen(c, 50 if c.workers else 100, 0.9))
    assert tuner.choice.workers == 0
    assert "0.50 times" in str(tuner)


def test_it_grows_until_the_step_no_longer_waits():
    """Doubling stops at the first number that feeds the step."""
    tuner = Tuner(TunerBounds(cores=16))

    def answer(choice):
        rate = min(100.0, 10.0 * max(1, choice.workers))
        stall = 1 - rate / 101
        return seen(choice, rate, stall, load=0.02, step=0.01)

    tried = play(tuner, answer)
    assert [choice.workers for choice in tried] == [0, 3, 6, 12]
    assert tuner.choice.workers == 12


def test_memory_limits_the_workers():
    """Each is expected to need its own part, and its batches."""
    limits = TunerBounds(cores=16, memory_bytes=3 * (64 << 20) + 6 * 1000)
    tuner = Tuner(limits)
    tried = play(tuner, lambda c: seen(c, 10 * max(1, c.workers), 0.9))
    assert max(choice.workers for choice in tried) == 3


def test_prefetch_grows_where_slow_batches_hold_up_others():
    """Only if it was left open."""
    for prefetch, largest in ((None, 8), (2, 2)):
        tuner = Tuner(TunerBounds(cores=2, prefetch=prefetch))

        def answer(choice):
            rate = 10 * (1 + choice.workers) * choice.prefetch
            return seen(choice, rate, 0.9, reorder=0.1, idle=0.5)

        play(tuner, answer)
        assert tuner.choice == Choice(2, largest)


def test_prefetch_stays_where_workers_always_have_a_task():
    """Then nothing can be gained by giving them more, however uneven batches are."""
    tuner = Tuner(TunerBounds(cores=2))
    tried = play(tuner, lambda c: seen(c, 10 * (1 + c.workers), 0.9, reorder=0.1, idle=0.01))
    assert tried == [Choice(0, 2), Choice(2, 2)]


def test_waiting_for_a_core_is_no_reason_for_more_workers():
    """On a busy machine a load that computes seems to wait."""
    tuner = Tuner(TunerBounds(cores=2))

    def answer(choice):
        if choice.workers:
            return seen(choice, 10 * choice.workers, 0.9, load=0.08, cpu=0.01)
        return seen(choice, 5, 0.9, load=0.04, cpu=0.01, wait=0.03)

    play(tuner, answer)
    assert tuner.choice.workers == 2


def test_what_is_clear_is_measured_no_longer():
    """Only a rate near that of another setting may be chance."""
    tuner = Tuner(TunerBounds(cores=2))
    tuner.observe(seen(Choice(0, 2), 100, 0.9))
    assert [tuner.is_clear(seen(Choice(2, 2), rate, 0.9)) for rate in (50, 95, 105, 190)] == [
        True,
        False,
        False,
        True,
    ]


def test_a_fixed_number_of_workers_stays():
    """Then only the prefetch factor is open."""
    tuner = Tuner(TunerBounds(cores=8, least=3, most=3))
    tried = play(tuner, lambda c: seen(c, 10 * c.prefetch, 0.9, reorder=0.1, idle=0.5))
    assert {choice.workers for choice in tried} == {3}


def test_short_epochs_get_no_workers_before_many_of_them_have_run():
    """Trying them would cost more than it saves in the few epochs that are sure to come."""
    tuner = Tuner(TunerBounds(cores=8, epoch_batches=4))
    for tuner.epochs in range(1, 50):
        tuner.observe(seen(Choice(0, 2), 100, 0.9, load=0.01))
        assert tuner.choice.workers == 0
    assert "more than they save" in str(tuner)
    tuner.epochs = 51
    tuner.observe(seen(Choice(0, 2), 100, 0.9, load=0.01))
    assert tuner.choice.workers == 8
