"""Where an intake stands: its partitions' positions, and how many turns the ledger has room for.

Reads and writes the ledger (`position`, `open_position`, `timeline`, `open_total`). The positions
are the ledger's: after a change of its timeline each is asked for anew (A1).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from turnstream.connectors.kafka.read.inbox import Inbox
    from turnstream.connectors.postgres.ledger.ledger import Ledger

log = structlog.get_logger(__name__)

CHECK_EVERY_S = 1.0
HOLD_S = 10.0
"""A partition rests for so long after an error that is no record's fault."""


class Positions:
    """Places the inbox and pauses it while the ledger is full. `open_turns_max`: of the ledger.

    `placed` is set once this worker reads a partition. `room`: turns that the ledger has room for.
    """

    def __init__(self, inbox: Inbox, ledger: Ledger, open_turns_max: int) -> None:
        self.placed = asyncio.Event()
        self.room = open_turns_max
        self._inbox = inbox
        self._ledger = ledger
        self._open_turns_max = open_turns_max
        self._full = False
        self._timeline = -1
        self._checked_at = -CHECK_EVERY_S
        self._resting: dict[TopicPartition, float] = {}

    async def look(self) -> None:
        """Place what has no position; once a second, see whether the ledger is full, or another.

        Raises `DatabaseUnavailableError`.
        """
        await self._place()
        await self._check()

    def admitted(self, commands: int) -> None:
        """Count commands that went into the ledger, until its next look."""
        self.room -= commands
        self._inbox.paused = self.room <= 0

    def rest(self, tp: TopicPartition) -> None:
        """Leave a partition alone for `HOLD_S`."""
        self._inbox.displace([tp])
        self._resting[tp] = asyncio.get_running_loop().time() + HOLD_S

    async def _place(self) -> None:
        now = asyncio.get_running_loop().time()
        self._resting = {tp: until for tp, until in self._resting.items() if until > now}
        waiting = list(self._inbox.unplaced() - self._resting.keys())
        places = [(tp.topic, tp.partition) for tp in waiting]
        # the first alone: while Postgres is away, each position would try a connection of its own
        found = [await self._ledger.position(*place) for place in places[:1]]
        found += await asyncio.gather(*(self._ledger.position(*place) for place in places[1:]))
        known = dict(zip(waiting, found, strict=True))
        fresh = [tp for tp, position in known.items() if position is None]
        for tp, start in (await self._inbox.starts_of(fresh)).items():
            known[tp] = await self._ledger.open_position(tp.topic, tp.partition, start)
        for tp, position in known.items():
            if position is not None:
                self._inbox.place(tp, position)
        if self._inbox.assigned():
            self.placed.set()

    async def _check(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._checked_at < CHECK_EVERY_S:
            return
        self._checked_at = now
        timeline = await self._ledger.timeline()
        if timeline != self._timeline and self._timeline >= 0:
            log.warning("ledger_timeline_changed", before=self._timeline, now=timeline)
            self._inbox.displace()
        self._timeline = timeline
        self.room = self._open_turns_max - await self._ledger.open_total()
        full = self._inbox.paused or self.room <= 0
        if full != self._full:
            log.warning("intake_paused" if full else "intake_resumed")
            self._full = full
        self._inbox.paused = self.room <= 0
