"""Learns whether Kafka answers, also while there is nothing to produce.

A worker that hears nothing leaves its threads to its peers if one of them does hear: that one can
go on. If none hears, a peer could do no better, and readers would be rewound for nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from turnstream.schemas.errors import DatabaseUnavailableError
from turnstream.streams.worker.watch.hearing import PROBE_EVERY_S

if TYPE_CHECKING:
    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.streams.worker.claims.roster import Roster
    from turnstream.streams.worker.watch.hearing import Hearing

log = structlog.get_logger(__name__)


class Probe:
    """`run` is the loop."""

    def __init__(self, pump: Pump, hearing: Hearing, ledger: Ledger, roster: Roster) -> None:
        self._pump = pump
        self._hearing = hearing
        self._ledger = ledger
        self._roster = roster

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            if self._pump.silent_s() > PROBE_EVERY_S:
                await self._pump.probe()
            if not self._hearing.stalled or not self._roster.running:
                continue
            if not await self._peer_hears():
                continue
            log.error("threads_left_to_peers", turns=len(self._roster.running))
            for attempt in list(self._roster.running.values()):
                attempt.halt("no acks", silently=True)

    async def _peer_hears(self) -> bool:
        # An outage ends all answers at about the same time. A peer whose last answer is much newer
        # than ours still hears, although a probe and a renewal may lie in between.
        within_s = self._pump.silent_s() / 2
        try:
            return await self._ledger.peer_hears(self._roster.worker, within_s)
        except DatabaseUnavailableError:
            return False
