"""Whether Kafka answers a worker, and whether its peers may go by what it hears.

A worker that is cut off leaves its threads to a peer that hears Kafka. After an outage for all, one
hears it some moments before the others, which would be no reason to rewind their readers. So nobody
vouches for Kafka before it has answered for `ack_stall_s`: until then the others had time as well.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PROBE_EVERY_S = 1.0

IDLE_S = 2 * PROBE_EVERY_S
"""So long nothing may be heard where there is nothing to say: between an answer and a probe's."""


class Hearing:
    """Judges what the pump says of its acks; `look` often, for time between two looks is lost.

    `stalled`: for `stall_s` an ack has been due. `steady`: for `stall_s` no answer was away for
    half of that time; it may be asked from any thread. A worker that has just begun is not steady,
    for it cannot know what was before.
    """

    def __init__(self, stall_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s = stall_s
        self._clock = clock
        self._missed_at = clock()
        self.stalled = False

    @property
    def steady(self) -> bool:
        """Whether peers may take it that Kafka answers whoever is not cut off."""
        return self._clock() - self._missed_at > self._stall_s

    def look(self, *, due_s: float, silent_s: float) -> None:
        """Take what the pump says: the age of the oldest request, and of the last answer."""
        if max(due_s, silent_s - IDLE_S) > self._stall_s / 2:
            self._missed_at = self._clock()
        self.stalled = due_s > self._stall_s
