"""What the edge reads of the ledger: where a thread's records lie, and a topic's incarnation."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from turnstream.connectors.postgres.pools import FAILURES
from turnstream.schemas.errors import DatabaseUnavailableError
from turnstream.schemas.ids import split_thread_key
from turnstream.schemas.places import Place, UnclaimedEnd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import asyncpg

    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.ledger.rows import TurnRow

TURNS_LOOKED_AT = 20
"""Of a thread's turns, how many of the newest are read for its place."""


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
    """Where threads' records lie, from their rows in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def place(self, key: str) -> Place | None:
        """Return the place of a thread; None if the ledger does not know the thread."""
        row = await self._ledger.thread(key)
        if row is None:
            return None
        turns = await self._ledger.turns_of(key, TURNS_LOOKED_AT)
        # the end of an unclaimed turn is one record, which may lie inside another turn
        claimed = {
            turn.first_off: turn.status
            for turn in turns
            if turn.attempts > 0 and turn.first_off is not None
        }
        head_from = row.head_off
        if row.head is None and row.interrupts:
            asking = (at for at, status in claimed.items() if status == "interrupted")
            head_from = next(asking, None)
        return Place(
            partition=row.partition,
            alive=row.head is not None or bool(row.interrupts),
            first=row.first_off,
            closed_to=row.last_off,
            head_from=head_from,
            starts=tuple(claimed),
            ends=tuple(_unclaimed(turns)),
            created_ms=int(row.created_at.timestamp() * 1000),
            epoch=row.epoch,
            timeline=row.timeline,
        )

    async def start_of(self, key: str, turn_id: str) -> int | None:
        """Return the offset of a turn's first record; None if the thread has none of it."""
        tenant, _ = split_thread_key(key)
        turn = await self._ledger.turn(tenant, UUID(turn_id))
        return turn.first_off if turn is not None and turn.thread_key == key else None


def _unclaimed(turns: Iterable[TurnRow]) -> Iterator[UnclaimedEnd]:
    for turn in turns:
        if turn.attempts == 0 and turn.outcome is not None:
            yield UnclaimedEnd(
                turn_id=str(turn.turn_id),
                offset=turn.first_off,
                decided_ms=turn.outcome.at // 1000,
            )
