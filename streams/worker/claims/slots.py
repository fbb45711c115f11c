"""Which turns run here, and how many more this worker may claim. No I/O."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from turnstream.connectors.postgres.ledger.rows import SUSPECT_ATTEMPT

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnstream.streams.process.pace import Pace
    from turnstream.streams.worker.claims.hold import Attempt


class Slots:
    """The slots of one worker, one for each turn that runs.

    `pace` limits how many turns may run now; turns above the limit go on, but none is claimed.
    Nothing is claimed while `works` returns False. `running` holds the attempts by thread key.
    `wake` is set when there may be something to claim, `emptied` while nothing runs. `starved`:
    turns waited when the last slot was taken. `doubtful`: the ledger may have given this worker
    threads that it does not know of, and nothing is claimed until `settle`.
    """

    def __init__(self, pace: Pace, works: Callable[[], bool]) -> None:
        self.running: dict[str, Attempt] = {}
        self.wake = asyncio.Event()
        self.emptied = asyncio.Event()
        self.emptied.set()
        self.starved = False
        self.doubtful = False
        self.claiming = 0
        """Calls under way that may claim."""
        self.turns_max = pace.turns_max
        self._pace = pace
        self._works = works
        self._reserved = 0
        self._closed = False

    @property
    def suspects(self) -> int:
        """How many turns run here whose attempts ended with their worker, or broke, before."""
        return sum(a.claim.attempts >= SUSPECT_ATTEMPT for a in self.running.values())

    @property
    def free(self) -> int:
        """How many more turns may be claimed now."""
        return max(0, -self._over) if self._open else 0

    @property
    def _open(self) -> bool:
        return self._works() and not self._closed and not self.doubtful

    @property
    def _over(self) -> int:
        return len(self.running) + self._reserved - self._pace.limit

    def close(self) -> None:
        """Claim nothing more, for good."""
        self._closed = True

    def reserve(self, wanted: int) -> int:
        """Keep up to `wanted` slots for a claiming call and return how many; then `unreserve`."""
        room = min(wanted, self.free)
        self._reserved += room
        self.claiming += 1
        return room

    def unreserve(self, room: int) -> None:
        """Give back the slots of a claiming call; the caller starts what it claimed next."""
        self._reserved -= room
        self.claiming -= 1

    def room_after(self, ending: int) -> int:
        """Return how many of `ending` attempts may hand their slot to their thread's next turn."""
        return max(0, ending - max(0, self._over)) if self._open else 0

    def doubt(self) -> None:
        """Note that the ledger may have given this worker threads that it does not know of."""
        self.doubtful = True
        self.wake.set()

    def settle(self) -> None:
        """Note that the ledger and `running` agree again."""
        self.doubtful = False
        self.wake.set()

    def take(self, attempt: Attempt) -> None:
        """Put an attempt into a slot."""
        self.running[attempt.claim.thread_key] = attempt
        self.emptied.clear()

    def leave(self, attempt: Attempt) -> None:
        """Free an attempt's slot, unless a later attempt on the thread has it."""
        if self.running.get(attempt.claim.thread_key) is attempt:
            del self.running[attempt.claim.thread_key]
        if not self.running:
            self.emptied.set()
        if self.starved or attempt.claim.attempts >= SUSPECT_ATTEMPT:
            self.wake.set()  # a slot is free: of the worker, or for a suspect
