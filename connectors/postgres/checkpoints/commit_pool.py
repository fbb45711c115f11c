"""Connections for what an attempt writes: its commits, and its calls of tools.

A statement that fails was never sent, or Postgres refused it, or its result is unknown. The errors
tell these cases apart.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg

from turnstream.connectors.postgres.pools import (
    FAILURES,
    POOL_SIZE_MAX,
    RECONNECT_EVERY_S,
    STATEMENT_TIMEOUT_S,
    ledger_pool,
)
from turnstream.schemas.errors import DatabaseUnavailableError, UnstorableStateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.connectors.postgres.pools import LedgerConnection

PATIENCE_S = 120.0
"""Seconds that a commit waits for a connection. Nothing has been sent by then, so nothing is
unknown: the turn goes on where it is, unless another worker has claimed its thread meanwhile."""

_UNKNOWN = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,  # the server stops, or a time-out of its own
    asyncpg.PostgresSystemError,
    asyncpg.TransactionRollbackError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InvalidTransactionStateError,  # read-only: a standby, for the moment
)
"""After these errors it is unknown whether the statement was executed, or it may succeed later."""


class CommitPool:
    """Executes single statements over a bounded pool, each a transaction of its own."""

    def __init__(self, pool: asyncpg.Pool) -> None:  # of `LedgerConnection`s
        self._pool = pool
        self._door = asyncio.Lock()

    async def fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """Execute a statement and return its rows.

        Raises `DatabaseUnavailableError` if there was no connection for `PATIENCE_S`, or if the
        result is unknown; `UnstorableStateError` if Postgres will always refuse the statement.
        """
        connection = await self._acquire()
        try:
            return await connection.fetch(sql, *values)  # type: ignore[no-any-return]
        except ValueError as error:  # a value that has no form in the protocol
            raise UnstorableStateError(f"Postgres cannot hold a value: {error}") from error
        except _UNKNOWN as error:
            said = str(error) or repr(error)
            raise DatabaseUnavailableError(f"a statement's result is unknown: {said}") from error
        except asyncpg.PostgresError as error:
            raise UnstorableStateError(f"Postgres refused the state: {error}") from error
        finally:
            await self._pool.release(connection)

    async def _acquire(self) -> LedgerConnection:
        """Return a connection; while there is none, one caller tries to open one, others wait."""
        until = time.monotonic() + PATIENCE_S
        if not self._door.locked():
            with suppress(*FAILURES):
                return await self._uncut(PATIENCE_S)
        try:
            async with asyncio.timeout(until - time.monotonic()), self._door:
                while True:
                    try:
                        return await self._uncut(None)
                    except FAILURES as error:
                        if self._pool.is_closing():
                            raise DatabaseUnavailableError("the pool is closed") from error
                    await asyncio.sleep(RECONNECT_EVERY_S)
        except TimeoutError:
            raise DatabaseUnavailableError(f"no connection for {PATIENCE_S:g} s") from None

    async def _uncut(self, timeout_s: float | None) -> LedgerConnection:
        """Return a connection that the server has not cut.

        The result of a statement that is sent over a cut connection is unknown.
        """
        while True:
            # an idle connection comes at once, and a time-out would cost a task and a timer
            idle = self._pool.get_idle_size()
            connection: LedgerConnection = await self._pool.acquire(
                timeout=None if idle else timeout_s
            )
            if not connection.is_cut():
                return connection
            connection.terminate()
            await self._pool.release(connection)


@asynccontextmanager
async def commit_pool(
    dsn: str,
    *,
    size_max: int = POOL_SIZE_MAX,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
) -> AsyncIterator[CommitPool]:
    """Open the pool; raises as `ledger_pool`."""
    async with ledger_pool(
        dsn,
        size_max=size_max,
        statement_timeout_s=statement_timeout_s,
        part="commits",
    ) as pool:
        yield CommitPool(pool)
