"""When a part that ended by itself is started again: soon, then ever more rarely. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST_S = 0.5
LONGEST_S = 30.0
HEALTHY_S = 60.0
"""A part that was ready this long before it ended is started again after `FIRST_S`."""


@dataclass(slots=True)
class Backoff:
    """The pauses of one part; times are seconds of a monotonic clock."""

    pause_s: float = 0.0
    due_at: float = math.inf
    ready_at: float = math.inf

    def ready(self, now: float) -> None:
        """Note that the part serves."""
        self.ready_at = now

    def ended(self, now: float) -> None:
        """Choose when a part that has ended is started again."""
        healthy = now - self.ready_at >= HEALTHY_S
        self.pause_s = FIRST_S if healthy else min(LONGEST_S, max(FIRST_S, 2 * self.pause_s))
        self.due_at, self.ready_at = now + self.pause_s, math.inf
