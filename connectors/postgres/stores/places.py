"""What the edge reads of the ledger: where a thread's records lie, and a topic's incarnation."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from turnstream.connectors.postgres.pools import FAILURES
from turnstream.schemas.errors import DatabaseUnavailableError
from turnstream.schemas.ids import split_thread_key

if TYPE_CHECKING:
    import asyncpg

    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import ThreadRow, TurnRow

TURNS_LOOKED_AT = 20


class Incarnations:
    """Numbers the ids that a topic name has had; the same at every edge."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def number(self, topic: str, topic_id: UUID) -> int:
        """Return the incarnation of this id, a new one if it was never seen."""
        try:
            return int(await self._pool.fetchval("SELECT incarnation($1, $2)", topic, topic_id))
        except FAILURES as error:
            raise DatabaseUnavailableError(f"incarnation of {topic}: {error!r}") from error


class LedgerPlaces:
    """A thread's rows in the ledger, for whoever looks up where its records are."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def thread(self, key: str) -> tuple[ThreadRow, list[TurnRow]] | None:
        """Return the thread and its latest turns, newest first; None for an unknown thread."""
        row = await self._ledger.thread(key)
        return None if row is None else (row, await self._ledger.turns_of(key, TURNS_LOOKED_AT))

    async def turn(self, key: str, turn_id: str) -> TurnRow | None:
        """Return a turn of the thread; None for one that is not, or not of this thread."""
        tenant, _ = split_thread_key(key)
        row = await self._ledger.turn(tenant, UUID(turn_id))
        return row if row is not None and row.thread_key == key else None
