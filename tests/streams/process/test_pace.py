"""A worker's limit follows the lag of its loop; a pure function and a clock of the test's own."""

from __future__ import annotations

import pytest

from turnstream.streams.process.pace import LIMIT_MIN, LoopLag, Pace, next_limit


@pytest.mark.parametrize(
    ("limit", "running", "lag_s", "then"),
    [
        (256, 100, 0.0, 256),  # in time: nothing is limited
        (256, 256, 0.1, 256),  # at the target
        (256, 100, 0.125, 80),  # late: of what runs, in proportion to the lag
        (256, 100, 9.0, 50),  # no step leaves less than half
        (80, 100, 9.0, 80),  # more run than may: the last step has not taken effect
        (80, 80, 0.06, 80),  # near the target: as it is
        (80, 80, 0.04, 84),  # in time: a 64th of turns_max more
        (80, 3, 0.0, 84),  # whether it is used up or not
        (255, 255, 0.0, 256),
        (17, 17, 9.0, LIMIT_MIN),
        (256, 0, 9.0, LIMIT_MIN),  # it is not the turns that make it late
    ],
)
def test_the_limit_follows_the_lag(limit: int, running: int, lag_s: float, then: int) -> None:
    found = next_limit(limit, running=running, lag_s=lag_s, target_s=0.1, turns_max=256)
    assert found == then


def test_a_worker_for_few_turns_is_never_below_them() -> None:
    pace = Pace(turns_max=2, target_s=0.1)
    assert pace.limit == 2
    for second in range(1, 5):
        pace.beat(float(second), late_s=5.0, running=2)
    assert pace.limit == 2


def test_lag_is_a_mean_over_a_span() -> None:
    lag = LoopLag()
    assert lag.beat(1.0, 0.1)
    assert not lag.beat(1.2, 0.3)
    assert not lag.beat(1.4, -0.1), "a beat is never early"
    assert lag.mean_s == 0.1
    assert lag.beat(1.6, 0.0)
    assert lag.mean_s == pytest.approx(0.1)


def test_a_block_however_long_limits_nothing() -> None:
    pace = Pace(turns_max=256, target_s=0.1)
    for second, late_s in enumerate((0.0, 9.0, 0.0, 9.0, 0.0), 1):
        pace.beat(float(second), late_s=late_s, running=200)
        assert pace.limit == 256


def test_a_limit_that_grew_is_told() -> None:
    pace = Pace(turns_max=256, target_s=0.1)
    assert not pace.beat(1.0, late_s=0.2, running=200)
    assert not pace.beat(2.0, late_s=0.2, running=200)
    assert (pace.limit, pace.lag_s) == (100, 0.2)
    assert pace.beat(3.0, late_s=0.0, running=120)
    assert pace.limit == 104


def test_without_a_target_nothing_is_limited() -> None:
    pace = Pace(turns_max=256, target_s=0.0)
    for second in range(1, 5):
        pace.beat(float(second), late_s=9.0, running=256)
    assert (pace.limit, pace.lag_s) == (256, 9.0)


def test_it_settles_where_the_loop_is_just_in_time() -> None:
    """Each turn costs a hundredth of a second of lag; 20 are served in a fifth."""
    pace, running, seen = Pace(turns_max=256, target_s=0.2), 256, []
    for half in range(2, 160):
        pace.beat(half / 2, late_s=running / 100, running=running)
        running = max(running - 20, min(pace.limit, running + 20))  # so many end in a span
        seen.append(running)
    assert max(seen[60:]) <= 28
    assert min(seen[60:]) >= LIMIT_MIN
