"""What a worker polls for, because wake-ups may be lost and peers may die.

It claims threads without an owner, frees those of dead peers, publishes unclaimed ends, finds
cancels and requeues dead letters. Jitter spreads the polls of many workers.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import structlog

from turnstream.connectors.postgres.ledger.rows import Admitted
from turnstream.schemas.errors import DatabaseUnavailableError
from turnstream.schemas.unexpected import note

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.signals import Signals
    from turnstream.streams.worker.claims.reclaim import Reclaim
    from turnstream.streams.worker.claims.roster import Roster
    from turnstream.streams.worker.unclaimed import Unclaimed
    from turnstream.streams.worker.watch.standing import Standing

log = structlog.get_logger(__name__)

REAP_EVERY_S = 0.17
"""Seconds between two looks for dead peers, before jitter: a dead peer is seen within 250 ms."""

JUDGE_AFTER_S = 1.5
"""Seconds for which a worker must have held its lease without a break before it judges others':
after an outage of Postgres its peers need time to renew."""

RECLAIM_EVERY_S = 1.0
SWEEP_EVERY_S = 1.0
SWEEP_MAX = 100
CANCEL_EVERY_S = 2.0
REQUEUE_EVERY_S = 1.0


def jitter(seconds: float) -> float:
    """Return about as many seconds, within 30 %."""
    return seconds * random.uniform(0.7, 1.3)  # noqa: S311  spreads polls, guards nothing


class Polls:
    """The polls of one worker; an outage of Postgres only delays them."""

    def __init__(
        self,
        *,
        roster: Roster,
        reclaim: Reclaim,
        unclaimed: Unclaimed,
        ledger: Ledger,
        signals: Signals,
        requeue: Callable[[], Awaitable[int]],
        standing: Standing,
    ) -> None:
        self._roster = roster
        self._claims = reclaim
        self._unclaimed = unclaimed
        self._ledger = ledger
        self._signals = signals
        self._requeue = requeue
        self._standing = standing

    async def run(self) -> None:
        """Poll until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reclaim(), name="reclaim")
            tasks.create_task(self._reap(), name="reap")
            tasks.create_task(self._sweep(), name="sweep")
            tasks.create_task(self._look_for_cancels(), name="cancels")
            tasks.create_task(self._requeue_letters(), name="requeue")

    async def _reclaim(self) -> None:
        while True:
            try:
                async with asyncio.timeout(jitter(RECLAIM_EVERY_S)):
                    await self._roster.slots.wake.wait()
            except TimeoutError:
                pass
            self._roster.slots.wake.clear()
            await _look("reclaim", self._claims.look)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(jitter(REAP_EVERY_S))
            if self._standing.steady_s < JUDGE_AFTER_S:
                continue
            await _look("reap", self._reap_once)

    async def _reap_once(self) -> None:
        if freed := await self._ledger.reap():
            log.warning("peer_dead", threads=freed)
            self._roster.slots.wake.set()
            await self._signals.wake_peer(self._roster.worker)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(jitter(SWEEP_EVERY_S))
            if self._standing.works():
                # three looks, so that an error in one of them does not stop the others
                await _look("expire", self._expire)
                await _look("sweep", self._sweep_ended)
                await _look("expired_interrupts", self._sweep_interrupts)

    async def _expire(self) -> None:
        expired = await self._ledger.expire(SWEEP_MAX)
        await self._roster.take(Admitted(ended=expired.ended, cancelled=expired.cancelled))

    async def _sweep_ended(self) -> None:
        if ended := await self._ledger.sweep(SWEEP_MAX):
            await self._unclaimed.publish(ended)

    async def _sweep_interrupts(self) -> None:
        if closed := await self._ledger.expired_interrupts(SWEEP_MAX):
            await self._unclaimed.tell_expired(closed)

    async def _requeue_letters(self) -> None:
        """Requeue dead letters as operators decided."""
        while True:
            await asyncio.sleep(jitter(REQUEUE_EVERY_S))
            if self._standing.works():
                await _look("requeue", self._requeue)

    async def _look_for_cancels(self) -> None:
        """Find cancels whose wake-up was lost: a turn may stream for minutes without a commit."""
        while True:
            await asyncio.sleep(jitter(CANCEL_EVERY_S))
            await _look("cancels", self._look_for_cancels_once)

    async def _look_for_cancels_once(self) -> None:
        await self._roster.look_for_cancels(list(self._roster.running))


async def _look(what: str, look: Callable[[], Awaitable[object]]) -> None:
    """Look once. An outage of Postgres delays the poll; any other error is counted."""
    try:
        await look()
    except DatabaseUnavailableError as error:
        log.debug("poll_waits", poll=what, error=str(error))
    except Exception as error:  # noqa: BLE001  a poll that ends would end the worker
        note(f"poll_{what}", error)
