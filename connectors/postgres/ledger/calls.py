"""Calls of the ledger's SQL functions: one transaction each, deadlocks repeated, errors named."""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import asyncpg

from turnstream.connectors.postgres.ledger.rows import Reused
from turnstream.schemas.errors import DatabaseUnavailableError, TurnstreamError

if TYPE_CHECKING:
    from collections.abc import Iterator

# a deadlock needs two commands that each reuse the other's turn id; the whole call is repeated
_DEADLOCK_TRIES = 4
_REUSED = "TS001"

_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
)


class _ReusedError(TurnstreamError):
    """Commands at these `offsets` reuse a turn id with another body; nothing was written."""

    def __init__(self, offsets: tuple[int, ...]) -> None:
        super().__init__()
        self.offsets = offsets


class _DeadlockError(DatabaseUnavailableError):
    """Two transactions waited for each other, and this one was undone."""


class Calls:
    """Statements over a pool of connections.

    Raises `DatabaseUnavailableError`: the call may or may not have been committed. Raises
    `TurnstreamError` for what Postgres refuses.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def rows_or_reused(self, sql: str, *values: object) -> list[asyncpg.Record] | Reused:
        """Return the rows, or which commands reuse a turn id with another body."""
        try:
            return await self.rows(sql, *values)
        except _ReusedError as error:
            return Reused(offsets=error.offsets)

    async def number(self, sql: str, *values: object) -> int:
        """Return the first column of the first row."""
        found = await self.number_or_none(sql, *values)
        if found is None:
            raise TurnstreamError(f"the ledger returned no number for: {sql.strip()}")
        return found

    async def number_or_none(self, sql: str, *values: object) -> int | None:
        """Return the first column of the first row, None if there is no row or it holds NULL."""
        rows = await self.rows(sql, *values)
        found: int | None = rows[0][0] if rows else None
        return found

    async def rows(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """Return the rows of a statement."""
        for attempt in range(_DEADLOCK_TRIES):
            try:
                with _wrapped():
                    return list(await self._pool.fetch(sql, *values))
            except _DeadlockError:
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311
        raise DatabaseUnavailableError(f"deadlocked {_DEADLOCK_TRIES} times")


@contextmanager
def _wrapped() -> Iterator[None]:
    try:
        yield
    except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as error:
        raise _DeadlockError(str(error)) from error
    except asyncpg.PostgresError as error:
        if error.sqlstate == _REUSED:
            raise _ReusedError(tuple(map(int, error.detail.split(",")))) from error
        if isinstance(error, _UNAVAILABLE):
            raise DatabaseUnavailableError(f"the ledger does not answer: {error}") from error
        raise TurnstreamError(f"the ledger refuses: {error}") from error
    # the internal one: the server ended the connection in the middle of asyncpg's own exchange
    except (
        OSError,
        TimeoutError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    ) as error:
        if isinstance(error, asyncpg.DataError):
            raise TurnstreamError(f"the ledger cannot hold this: {error}") from error
        raise DatabaseUnavailableError(f"the ledger does not answer: {error!r}") from error
