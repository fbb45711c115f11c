"""How many turns a worker may run: as many as its event loop serves in time.

The lag of the loop tells whether the cores, which neighbours may share, are enough for what runs.
As in TCP the limit doubles until the loop is late for the first time; from then on it shrinks
quickly and grows slowly. No turn that runs is stopped. What is not claimed waits in the ledger, for
a peer or for later.
"""

from __future__ import annotations

LIMIT_MIN = 4
"""Turns that a worker runs however late its loop is: some must come to an end."""

START_SHARE = 1 / 8
"""Of `turns_max`, in the beginning."""

SHRINK = 0.8
GROW_SHARE = 1 / 32
"""Of `turns_max`, each time."""

ADJUST_EVERY_S = 1.0


def next_limit(
    limit: int, *, running: int, lag_s: float, target_s: float, turns_max: int, late_before: bool
) -> int:
    """Return how many turns may run from now on.

    `lag_s`: how late the loop was lately, on average. `late_before`: it has passed the target once.
    """
    floor = min(LIMIT_MIN, turns_max)
    if lag_s > target_s:
        # from what runs on: a limit that nothing reaches would shrink for long without effect
        return max(floor, int(min(limit, running) * SHRINK))
    step = max(1, int(turns_max * GROW_SHARE))
    if lag_s > target_s / 2 or running < limit - step:
        return limit  # near the target, or not used up: growing would only allow a burst
    return min(turns_max, limit + step if late_before else 2 * limit)


class Pace:
    """Keeps a worker's limit. `target_s` 0: it is `turns_max`, whatever the lag.

    `beat` is called on the loop several times a second.
    """

    def __init__(self, *, turns_max: int, target_s: float) -> None:
        self.lag_s = 0.0
        self._turns_max = turns_max
        self._target_s = target_s
        start = max(LIMIT_MIN, int(turns_max * START_SHARE)) if target_s else turns_max
        self.limit = min(turns_max, start)
        self._late_before = False
        self._sum_s, self._beats = 0.0, 0
        self._adjusted_at = 0.0

    def beat(self, now: float, *, late_s: float, running: int) -> bool:
        """Note that the loop ran `late_s` later than asked; return whether the limit has grown."""
        self._sum_s += max(0.0, late_s)
        self._beats += 1
        if now - self._adjusted_at < ADJUST_EVERY_S:
            return False
        self.lag_s = self._sum_s / self._beats
        self._sum_s, self._beats, self._adjusted_at = 0.0, 0, now
        if not self._target_s:
            return False
        before = self.limit
        self.limit = next_limit(
            before,
            running=running,
            lag_s=self.lag_s,
            target_s=self._target_s,
            turns_max=self._turns_max,
            late_before=self._late_before,
        )
        self._late_before = self._late_before or self.limit < before
        return self.limit > before
