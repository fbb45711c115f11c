"""Whom peers may go by, on a clock of the test's own."""

from __future__ import annotations

import pytest

from turnstream.streams.worker.watch.hearing import Hearing

STALL_S = 10.0
LOOK_S = 0.125


class Clock:
    """Seconds that pass as they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Heard:
    """A worker that says something all the time; `idle`: nothing, so that only probes tell."""

    def __init__(self, clock: Clock, *, idle: bool = False) -> None:
        self.clock, self.idle = clock, idle
        self.hearing = Hearing(STALL_S, clock=clock)
        self.answered_at = clock()

    def look(self, *, answered: bool) -> None:
        if answered:
            self.answered_at = self.clock()
        silent_s = self.clock() - self.answered_at
        self.hearing.look(due_s=0.0 if self.idle else silent_s, silent_s=silent_s)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def passes(seconds: float, clock: Clock, *workers: Heard, answered: bool) -> None:
    """Let time pass in looks."""
    for _ in range(round(seconds / LOOK_S)):
        clock.now += LOOK_S
        for worker in workers:
            worker.look(answered=answered)


@pytest.fixture
def worker(clock: Clock) -> Heard:
    """One that has heard Kafka for long."""
    worker = Heard(clock)
    passes(60, clock, worker, answered=True)
    assert worker.hearing.steady
    return worker


@pytest.mark.parametrize("outage_s", [STALL_S - 1, STALL_S + 0.5, 60.0])
def test_after_an_outage_nobody_vouches_until_all_had_the_time_of_a_stall(
    clock: Clock, worker: Heard, outage_s: float
) -> None:
    other = Heard(clock)
    passes(60, clock, worker, other, answered=True)
    passes(outage_s, clock, worker, other, answered=False)
    # Kafka is back; `worker` hears it at once, `other` only at the last moment that it has
    worker.look(answered=True)
    for _ in range(round(STALL_S / LOOK_S)):
        assert not worker.hearing.steady, "it would make the other give its threads up"
        passes(LOOK_S, clock, worker, answered=True)
        other.look(answered=False)
    assert other.hearing.stalled
    passes(2 * LOOK_S, clock, worker, answered=True)
    assert worker.hearing.steady, "who still hears nothing is cut off"


def test_an_outage_that_comes_again_is_one(clock: Clock, worker: Heard) -> None:
    for _ in range(3):
        passes(STALL_S, clock, worker, answered=False)
        passes(STALL_S - 1, clock, worker, answered=True)
        assert not worker.hearing.steady
    passes(2, clock, worker, answered=True)
    assert worker.hearing.steady


def test_a_worker_that_is_cut_off_is_no_reason_for_others(clock: Clock, worker: Heard) -> None:
    cut = Heard(clock)
    passes(30, clock, worker, cut, answered=True)
    for _ in range(round(2 * STALL_S / LOOK_S)):
        passes(LOOK_S, clock, worker, answered=True)
        cut.look(answered=False)
        assert worker.hearing.steady
    assert cut.hearing.stalled
    assert not cut.hearing.steady


def test_short_waits_for_an_ack_are_no_outage(clock: Clock, worker: Heard) -> None:
    for _ in range(20):
        passes(STALL_S / 2 - 1, clock, worker, answered=False)
        worker.look(answered=True)
        assert worker.hearing.steady
        assert not worker.hearing.stalled


def test_where_nothing_is_said_probes_tell_of_an_outage(clock: Clock) -> None:
    idle = Heard(clock, idle=True)
    for _ in range(30):  # an answer every two seconds
        passes(2, clock, idle, answered=False)
        idle.look(answered=True)
    assert idle.hearing.steady
    passes(STALL_S, clock, idle, answered=False)
    idle.look(answered=True)
    assert not idle.hearing.steady
    assert not idle.hearing.stalled, "nothing waits for an ack"


def test_who_has_just_begun_does_not_vouch(clock: Clock) -> None:
    fresh = Heard(clock)
    passes(STALL_S, clock, fresh, answered=True)
    assert not fresh.hearing.steady
    passes(1, clock, fresh, answered=True)
    assert fresh.hearing.steady
