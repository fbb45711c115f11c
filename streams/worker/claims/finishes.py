"""Closes turns that ended, in batches, and claims their threads' next turns. Writes the ledger."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from turnstream.schemas.errors import DatabaseUnavailableError
from turnstream.schemas.unexpected import note

if TYPE_CHECKING:
    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import Claim, Finish
    from turnstream.streams.worker.claims.slots import Slots
    from turnstream.streams.worker.watch.standing import Standing

log = structlog.get_logger(__name__)

FINISH_BATCH_MAX = 64
RETRY_S = 0.2


class Finishes:
    """The attempts that came to their end and whose threads are to be finished.

    `finished` counts turns that were closed.
    """

    def __init__(self, standing: Standing, ledger: Ledger, slots: Slots) -> None:
        self._standing = standing
        self._ledger = ledger
        self._slots = slots
        self._waiting: asyncio.Queue[Finish] = asyncio.Queue(maxsize=2 * slots.turns_max)
        self.finished = 0

    async def put(self, finish: Finish) -> None:
        """Let the next batch finish an attempt; waits while very many are before it."""
        await self._waiting.put(finish)

    async def next_batch(self) -> tuple[list[Claim], bool]:
        """Wait for attempts, finish them and free their slots.

        Returns the claims of their threads' next turns, and whether turns may wait that this worker
        had no slot for.
        """
        batch = [await self._waiting.get()]
        while len(batch) < FINISH_BATCH_MAX and not self._waiting.empty():
            batch.append(self._waiting.get_nowait())
        slots = self._slots
        room = slots.room_after(len(batch))
        slots.claiming += 1
        try:
            claims = await self._finish(batch, room)
        finally:
            slots.claiming -= 1
        self.finished += len(batch)
        for item in batch:
            attempt = slots.running.get(item.thread_key)
            if attempt is not None and attempt.claim.epoch == item.epoch:
                slots.leave(attempt)
        left = room < len(batch)
        slots.starved = slots.starved or left
        return claims, left

    async def _finish(self, batch: list[Finish], room: int) -> list[Claim]:
        while True:
            try:
                return await self._ledger.finish(self._standing.worker, room, batch)
            except DatabaseUnavailableError as error:
                # it may have been written, and with it claims that this worker does not know of
                log.warning("finish_unknown", turns=len(batch), error=str(error))
                if room:
                    self._slots.doubt()
                room = 0
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # noqa: BLE001  one turn must not keep others from their end
                note("finish", error, turns=len(batch), thread=batch[0].thread_key)
                # what was claimed is given back, and what is not closed comes again
                self._slots.doubt()
                if len(batch) > 1:
                    for item in batch:
                        await self._finish([item], 0)
                return []
