"""How many turns a worker may run: as many as its event loop serves in time.

The lag of the loop tells whether the cores, which neighbours may share, are enough for what runs.
While the loop is in time nothing is limited. When it is late for two spans the limit shrinks, in
proportion to the lag; when it is in time again the limit grows back, slowly. No turn that runs is
stopped. What is not claimed waits in the ledger, for a peer or for later.
"""

from __future__ import annotations

import asyncio
import time

SPAN_S = 0.5
"""The lag is a mean over so long. A block of the loop, however long, makes one span late."""

BEAT_EVERY_S = 0.1

LIMIT_MIN = 16
"""Turns that a worker runs however late its loop is, for neighbours may be what makes it late."""

SHRINK_MIN = 0.5
"""A step leaves at least this share of what runs."""

GROW_SHARE = 1 / 64
"""Of `turns_max`, each span."""


class LoopLag:
    """How late an event loop was on average over the last span: `mean_s`."""

    def __init__(self) -> None:
        self.mean_s = 0.0
        self._sum_s, self._beats = 0.0, 0
        self._span_at = 0.0

    def beat(self, now: float, late_s: float) -> bool:
        """Note that the loop ran `late_s` later than asked; return whether `mean_s` is new."""
        self._sum_s += max(0.0, late_s)
        self._beats += 1
        if now - self._span_at < SPAN_S:
            return False
        self.mean_s = self._sum_s / self._beats
        self._sum_s, self._beats, self._span_at = 0.0, 0, now
        return True

    async def watch(self) -> None:
        """Beat until cancelled."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(BEAT_EVERY_S)
            now = time.monotonic()
            self.beat(now, now - began - BEAT_EVERY_S)


def next_limit(limit: int, *, running: int, lag_s: float, target_s: float, turns_max: int) -> int:
    """Return how many turns may run from now on.

    `lag_s`: how late the loop was at least, on average, in each of the last two spans.
    """
    if lag_s > target_s:
        if running > limit:
            return limit  # it takes effect when turns end; then it is seen whether that was enough
        left = int(running * max(SHRINK_MIN, target_s / lag_s))
        return min(limit, max(min(LIMIT_MIN, turns_max), left))
    if lag_s > target_s / 2:
        return limit
    return min(turns_max, limit + max(1, int(turns_max * GROW_SHARE)))


class Pace:
    """Keeps a worker's limit. `target_s` 0: it is `turns_max`, whatever the lag.

    `beat` is called on the loop several times a second.
    """

    def __init__(self, *, turns_max: int, target_s: float) -> None:
        self.limit = turns_max
        self._lag = LoopLag()
        self.turns_max = turns_max
        self._target_s = target_s

    @property
    def lag_s(self) -> float:
        """How late the loop was lately, on average."""
        return self._lag.mean_s

    def beat(self, now: float, *, late_s: float, running: int) -> bool:
        """Note that the loop ran `late_s` later than asked; return whether the limit has grown."""
        earlier_s, before = self.lag_s, self.limit
        if not self._lag.beat(now, late_s) or not self._target_s:
            return False
        self.limit = next_limit(
            before,
            running=running,
            lag_s=min(earlier_s, self.lag_s),
            target_s=self._target_s,
            turns_max=self.turns_max,
        )
        return self.limit > before
