"""Claims threads that wait without an owner, and gives back what was claimed in silence.

Reads and writes the ledger (`reclaim`, `owned`, `release`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from turnstream.schemas.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import Claim
    from turnstream.streams.worker.claims.roster import Roster

log = structlog.get_logger(__name__)

RECLAIM_BATCH_MAX = 32
CLAIMING_PAUSE_S = 0.2


class Reclaim:
    """The slow way to a turn: for threads that no admission and no finish handed to a worker."""

    def __init__(self, ledger: Ledger, roster: Roster) -> None:
        self._ledger = ledger
        self._roster = roster
        self._slots = roster.slots

    async def look(self) -> None:
        """Claim what waits in `ready`, as far as there is room."""
        if self._slots.doubtful:
            await self._reconcile()
        while (room := self._slots.reserve(RECLAIM_BATCH_MAX)) > 0:
            claims: list[Claim] = []
            try:
                claims = await self._ledger.reclaim(self._roster.worker, room)
            except DatabaseUnavailableError:
                self._slots.doubt()
                raise
            finally:
                self._slots.unreserve(room)
            self._roster.begin(claims)
            if len(claims) < room:
                self._slots.starved = False
                return
        self._slots.unreserve(0)
        self._slots.starved = True

    async def _reconcile(self) -> None:
        """Release threads that the ledger says are this worker's and that nothing here runs.

        Waits until no claiming call is under way; none begins while there is doubt.
        """
        if self._slots.claiming:
            await asyncio.sleep(CLAIMING_PAUSE_S)
            return
        owned = await self._ledger.owned(self._roster.worker)
        running = self._slots.running
        orphans = [
            (key, epoch)
            for key, epoch in owned
            if key not in running or running[key].claim.epoch != epoch
        ]
        await self._ledger.release(orphans)
        if orphans:
            log.warning("orphans_released", threads=len(orphans))
        self._slots.settle()
