"""The tokens of turns, counted once each: the store of the usage processor.

Reads and writes `usage_turns` and `usage_totals` (sql/usage.sql).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import msgspec

from turnstream.connectors.postgres.pools import FAILURES
from turnstream.schemas.errors import DatabaseUnavailableError, UndecodableError
from turnstream.schemas.records.results import UsageTotal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.schemas.records.events import Usage
    from turnstream.schemas.records.results import TurnResult

_COUNT = "SELECT count_usage($1, $2, $3, $4, $5)"
_DUE = """
SELECT tenant, window_start, window_s, model, turns, input_tokens, output_tokens,
       reasoning_tokens, cached_tokens
FROM usage_totals WHERE rev > published
ORDER BY tenant, window_start, window_s, model LIMIT $1 FOR UPDATE SKIP LOCKED
"""
_PUBLISHED = """
UPDATE usage_totals AS t SET published = rev
FROM unnest($1::text[], $2::bigint[], $3::int[], $4::text[])
  AS k(tenant, window_start, window_s, model)
WHERE t.tenant = k.tenant AND t.window_start = k.window_start AND t.window_s = k.window_s
  AND t.model = k.model
"""


ESTIMATED = " (estimated)"
"""Suffix of a model's name in the totals, for tokens that its server did not count."""


def _of_its_own(usage: Usage) -> Usage:
    """Return the usage under the name under which it is added up."""
    if not usage.estimated:
        return usage
    return msgspec.structs.replace(usage, model=usage.model + ESTIMATED)


class UsageStore:
    """Count results, and hand out totals that changed. Raises `DatabaseUnavailableError`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def count(self, result: TurnResult, window_s: int) -> bool:
        """Count a turn in the window of its result's time; False where it had been counted.

        Raises `UndecodableError` (`invalid_result`) for a result that can never be counted: its
        turn id is no UUID, a number does not fit, or a name holds U+0000.
        """
        window_us = window_s * 1_000_000
        usage = msgspec.json.encode([_of_its_own(one) for one in result.usage]).decode()
        start = result.at - result.at % window_us
        try:
            turn_id = UUID(result.turn_id)
            return bool(
                await self._pool.fetchval(_COUNT, result.tenant, turn_id, start, window_s, usage)
            )
        except (ValueError, asyncpg.DataError) as error:
            raise UndecodableError(f"cannot be counted: {error}", code="invalid_result") from error
        except FAILURES as error:
            raise DatabaseUnavailableError(f"usage: {error!r}") from error

    @asynccontextmanager
    async def due(self, limit: int) -> AsyncIterator[list[UsageTotal]]:
        """Yield the totals that changed since they were published; mark them published afterwards.

        Their rows stay locked in the block, so that of two publishers the later one has the later
        total. A publisher that dies or raises leaves them due.
        """
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                rows = [UsageTotal(**row) for row in await connection.fetch(_DUE, limit)]
                yield rows
                if rows:
                    await connection.execute(
                        _PUBLISHED,
                        [row.tenant for row in rows],
                        [row.window_start for row in rows],
                        [row.window_s for row in rows],
                        [row.model for row in rows],
                    )
        except FAILURES as error:
            raise DatabaseUnavailableError(f"usage: {error!r}") from error
