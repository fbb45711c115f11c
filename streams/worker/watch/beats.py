"""Looks, ten times a second, whether the event loop ticks and Kafka acknowledges.

While Kafka does not acknowledge, turns hold and nothing is claimed.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from turnstream.streams.process.garbage import IdleCollector
from turnstream.streams.process.pace import BEAT_EVERY_S

if TYPE_CHECKING:
    from turnstream.connectors.kafka.write.pump import Pump
    from turnstream.streams.process.loop_watch import LoopWatch
    from turnstream.streams.process.pace import Pace
    from turnstream.streams.worker.claims.roster import Roster
    from turnstream.streams.worker.watch.hearing import Hearing
    from turnstream.streams.worker.watch.standing import Standing

log = structlog.get_logger(__name__)

LATE_S = 1.0
"""After a pause of the loop of this length, answers of Kafka may still wait to be read."""


class Beats:
    """The beat of the event loop: for the lease, the loop's watch, the pace and the hearing."""

    def __init__(
        self,
        standing: Standing,
        hearing: Hearing,
        pump: Pump,
        *,
        loop_watch: LoopWatch,
        pace: Pace,
        roster: Roster,
    ) -> None:
        self._standing = standing
        self._hearing = hearing
        self._pump = pump
        self._loop_watch = loop_watch
        self._pace = pace
        self._roster = roster

    async def run(self) -> None:
        """Beat until cancelled."""
        late_s, garbage = 0.0, IdleCollector()
        with self._loop_watch.watching():
            while True:
                self._loop_watch.beat()
                if self._standing.lease is not None:
                    self._standing.lease.beat()
                if late_s < LATE_S:
                    self._hear()
                running = len(self._roster.running)
                if not running:
                    garbage.idle(self._roster.counts.claimed)
                began = time.monotonic()
                await asyncio.sleep(BEAT_EVERY_S)
                now = time.monotonic()
                late_s = now - began - BEAT_EVERY_S
                if self._pace.beat(now, late_s=late_s, running=len(self._roster.running)):
                    self._roster.slots.wake.set()

    def _hear(self) -> None:
        before = self._hearing.stalled
        self._hearing.look(due_s=self._pump.stalled_s(), silent_s=self._pump.silent_s())
        if self._hearing.stalled == before:
            return
        if before:
            log.info("acks_again")
            self._roster.slots.wake.set()
        else:
            log.error("acks_stalled", turns=len(self._roster.running))
