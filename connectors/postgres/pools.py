"""Bounded pools: asyncpg for the ledger and for commits, psycopg for what LangGraph's saver reads.

Per worker at most `POOL_SIZE_MAX` of each, beside two direct connections (lease and listener).
"""

from __future__ import annotations

import select
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from turnstream.schemas.errors import ConfigurationError, DatabaseUnavailableError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from psycopg import AsyncConnection

POOL_SIZE_MAX = 8
STATEMENT_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
RECONNECT_EVERY_S = 0.5
FAILURES = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server ended the connection inside asyncpg's own exchange
)
"""What asyncpg raises where the server refuses, does not answer or goes away."""

_WRONG = (
    asyncpg.InvalidAuthorizationSpecificationError,  # user, password, pg_hba.conf
    asyncpg.InvalidCatalogNameError,  # no such database
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ClientConfigurationError,
)
"""Failures to connect that last until a setting changes."""


class LedgerConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """One that tells whether the server has cut it, also where the event loop has yet to look."""

    __slots__ = ("_fileno",)

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        self._fileno: int = transport.get_extra_info("socket").fileno()

    def is_cut(self) -> bool:
        """Tell whether a statement would get lost in it."""
        return self.is_closed() or _has_something_to_read(self._fileno)


@asynccontextmanager
async def ledger_pool(
    dsn: str,
    *,
    size_max: int = POOL_SIZE_MAX,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    pgbouncer: bool = False,
    part: str = "ledger",
) -> AsyncIterator[asyncpg.Pool]:
    """Open the ledger's pool; a statement that takes longer than its time-out is cancelled.

    `part` is the name by which the server knows its connections. `pgbouncer`: the URL leads to a
    pooler in transaction mode, so nothing is prepared. Raises `DatabaseUnavailableError` if not
    even one connection can be made, `ConfigurationError` if none ever will.
    """
    try:
        pool = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size_max,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=statement_timeout_s,
            statement_cache_size=0 if pgbouncer else 100,
            reset=_nothing_to_reset,
            connection_class=LedgerConnection,
            server_settings=None if pgbouncer else _settings(part, statement_timeout_s),
        )
    except FAILURES as error:
        raise _not_connected(error) from error
    try:
        yield pool
    finally:
        pool.terminate()


async def check_database(dsn: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """Connect once. Raises as `ledger_pool` does; can be cancelled at any moment."""
    try:
        connection = await asyncpg.connect(dsn, timeout=timeout_s)
        await connection.close(timeout=timeout_s)
    except FAILURES as error:
        raise _not_connected(error) from error


@asynccontextmanager
async def saver_pool(
    dsn: str,
    *,
    size_max: int = POOL_SIZE_MAX,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    pgbouncer: bool = False,
) -> AsyncIterator[AsyncConnectionPool[AsyncConnection[DictRow]]]:
    """Open the saver's pool: autocommit, rows as dicts, prepared from the first use on."""
    options: dict[str, Any] = {
        "autocommit": True,
        "prepare_threshold": None if pgbouncer else 0,
        "row_factory": dict_row,
        "connect_timeout": int(CONNECT_TIMEOUT_S),
    }
    if not pgbouncer:
        settings = _settings("saver", statement_timeout_s)
        options["application_name"] = settings.pop("application_name")
        options["options"] = " ".join(f"-c {key}={value}" for key, value in settings.items())
    pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
        dsn,
        min_size=1,
        max_size=size_max,
        max_waiting=0,
        timeout=statement_timeout_s,
        # left to itself it doubles its pauses, and sleeps on when the server is back
        reconnect_timeout=RECONNECT_EVERY_S,
        reconnect_failed=_connect_again,
        kwargs=options,
        open=False,
    )
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close(timeout=CONNECT_TIMEOUT_S)


@asynccontextmanager
async def borrow(pool: AsyncConnectionPool[Any]) -> AsyncIterator[AsyncConnection[Any]]:
    """Lend a connection that the server has not cut; waits for one as long as the pool does.

    Raises `PoolTimeout`, before anything was sent.
    """
    until = time.monotonic() + pool.timeout
    while True:
        connection = await pool.getconn(max(0.001, until - time.monotonic()))
        if not _cut(connection):
            break
        try:
            await connection.close()
        finally:
            await pool.putconn(connection)
    try:
        yield connection
    finally:
        await pool.putconn(connection)


async def _nothing_to_reset(_connection: object) -> None:
    """Spare each loan a second round trip: no statement of ours leaves anything in its session.

    An open transaction is ended by asyncpg itself. Its own reset would also make a statement that
    was executed look like one of which nobody knows, where the server goes between the two.
    """


def _not_connected(error: Exception) -> ConfigurationError | DatabaseUnavailableError:
    kind = ConfigurationError if isinstance(error, _WRONG) else DatabaseUnavailableError
    return kind(f"cannot connect to Postgres: {str(error) or repr(error)}")


async def _connect_again(pool: AsyncConnectionPool[Any]) -> None:
    """Ask the pool for a connection, which makes it try to open one."""
    with suppress(PoolTimeout, PoolClosed):
        await pool.putconn(await pool.getconn(0.001))


def _has_something_to_read(fileno: int) -> bool:
    """Tell whether bytes or an end wait in a socket."""
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))


def _cut(connection: AsyncConnection[Any]) -> bool:
    """Tell whether the server has said something to an idle connection: its end.

    So a statement is not sent into a connection that is gone, after which nobody would know
    whether it was executed.
    """
    return connection.closed or _has_something_to_read(connection.fileno())


def _settings(part: str, statement_timeout_s: float) -> dict[str, str]:
    return {
        "application_name": f"turnstream-{part}",
        "statement_timeout": str(round(statement_timeout_s * 1000)),
        # no transaction of ours waits for a client between two statements for long
        "idle_in_transaction_session_timeout": str(round(statement_timeout_s * 1000)),
        "jit": "off",
    }
