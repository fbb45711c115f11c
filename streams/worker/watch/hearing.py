"""Whether Kafka answers a worker, and whether its peers may rely on that.

A worker that is cut off leaves its threads to a peer that hears Kafka. After an outage for all
workers, one of them hears Kafka some moments before the others. That is no reason to rewind the
others' readers, so a worker vouches for Kafka only after it has heard it for `ack_stall_s`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PROBE_EVERY_S = 1.0

IDLE_S = 2 * PROBE_EVERY_S
"""Longest silence of an idle worker: from an answer to the answer of a probe."""


class Hearing:
    """Judges the pump's acks. Call `look` often: what happens between two looks is not seen.

    `stalled`: an ack has been due for `stall_s`. `steady`: in the last `stall_s` no answer was due
    for half of that time; any thread may read it. A worker that has just started is not steady,
    because it does not know what was before.
    """

    def __init__(self, stall_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s = stall_s
        self._clock = clock
        self._missed_at = clock()
        self.stalled = False

    @property
    def steady(self) -> bool:
        """Whether peers may assume that Kafka answers every worker that is not cut off."""
        return self._clock() - self._missed_at > self._stall_s

    def look(self, *, due_s: float, silent_s: float) -> None:
        """Note the age of the oldest unanswered request, and of the last answer, in seconds."""
        if max(due_s, silent_s - IDLE_S) > self._stall_s / 2:
            self._missed_at = self._clock()
        self.stalled = due_s > self._stall_s
