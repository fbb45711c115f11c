"""Keeps a lease, one after another: when one is lost its attempts end, and a new life begins."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from turnstream.schemas.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.connectors.postgres.ledger.lease import Lease, LeaseState
    from turnstream.streams.worker.claims.roster import Roster
    from turnstream.streams.worker.watch.standing import Standing

log = structlog.get_logger(__name__)

OpenLease = Callable[[UUID, Callable[["LeaseState"], None]], "Lease"]
"""Makes a lease for a worker's id; calls back when its state changes."""

RETRY_S = 0.5


class Tenure:
    """`run` is the loop; `leased` is set once the first lease is held."""

    def __init__(
        self, standing: Standing, open_lease: OpenLease, roster: Roster, pump: Pump
    ) -> None:
        self.leased = asyncio.Event()
        self._standing = standing
        self._open_lease = open_lease
        self._roster = roster
        self._pump = pump
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Hold a lease until cancelled; an outage of Postgres only puts the next one off."""
        standing = self._standing
        while True:
            try:
                async with self._open_lease(standing.worker, self._on_change) as lease:
                    standing.lease = lease
                    self.leased.set()
                    self._roster.slots.wake.set()
                    self._pump.hurry()
                    await self._lost.wait()
            except DatabaseUnavailableError as error:
                log.warning("lease_waits", error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            log.warning("lease_lost", worker=standing.name, turns=len(self._roster.running))
            self._lost.clear()
            self._roster.abandon_all(excused=not lease.faltered)
            standing.worker = uuid.uuid4()

    def _on_change(self, state: LeaseState) -> None:
        log.info("lease_changed", state=state)
        if state == "lost":
            self._lost.set()
        elif state == "held":
            self._pump.hurry()
