"""A worker's limit follows the lag of its loop; a pure function and a clock of the test's own."""

from __future__ import annotations

import pytest

from turnstream.streams.pace import LIMIT_MIN, Pace, next_limit


@pytest.mark.parametrize(
    ("limit", "running", "lag_s", "late_before", "then"),
    [
        (32, 32, 0.0, False, 64),  # doubles until it was late once
        (200, 200, 0.0, False, 256),  # up to turns_max
        (32, 32, 0.0, True, 40),  # then by a 32nd of turns_max
        (32, 10, 0.0, True, 32),  # not where it is not used up
        (32, 32, 0.06, True, 32),  # nor near the target
        (100, 100, 0.2, False, 80),  # late: four fifths
        (256, 50, 0.2, True, 40),  # of what runs, not of a limit that nothing reaches
        (5, 5, 9.0, True, LIMIT_MIN),
        (4, 0, 9.0, True, LIMIT_MIN),
    ],
)
def test_the_limit_follows_the_lag(
    limit: int, running: int, lag_s: float, late_before: bool, then: int
) -> None:
    found = next_limit(
        limit,
        running=running,
        lag_s=lag_s,
        target_s=0.1,
        turns_max=256,
        late_before=late_before,
    )
    assert found == then


def test_a_worker_for_few_turns_is_never_below_them() -> None:
    pace = Pace(turns_max=2, target_s=0.1)
    assert pace.limit == 2
    pace.beat(2.0, late_s=5.0, running=2)
    assert pace.limit == 2


def test_lag_is_averaged_over_a_second_and_a_limit_that_grew_is_told() -> None:
    pace = Pace(turns_max=256, target_s=0.1)
    assert pace.limit == 32
    assert not pace.beat(0.5, late_s=0.0, running=32)
    assert pace.beat(1.0, late_s=0.02, running=32)
    assert (pace.limit, pace.lag_s) == (64, 0.01)
    for tenth in range(11, 20):
        assert not pace.beat(tenth / 10, late_s=0.3, running=64)
    assert not pace.beat(2.0, late_s=0.3, running=64)
    assert pace.limit == 51
    assert pace.beat(3.0, late_s=0.0, running=51)
    assert pace.limit == 59, "it was late before: by a 32nd"


def test_without_a_target_nothing_is_limited() -> None:
    pace = Pace(turns_max=256, target_s=0.0)
    pace.beat(1.0, late_s=9.0, running=256)
    assert (pace.limit, pace.lag_s) == (256, 9.0)


def test_it_settles_where_the_loop_is_just_in_time() -> None:
    """Each turn costs a hundredth of a second of lag; 20 are served in a fifth."""
    pace, seen = Pace(turns_max=256, target_s=0.2), []
    for second in range(1, 60):
        running = pace.limit
        pace.beat(float(second), late_s=running / 100, running=running)
        seen.append(pace.limit)
    assert max(seen[20:]) <= 28
    assert min(seen[20:]) >= 8
