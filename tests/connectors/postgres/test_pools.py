"""The pools: no statement goes into a connection that is cut, none is said for nothing."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from turnstream.connectors.postgres.checkpoints.commit_pool import commit_pool
from turnstream.connectors.postgres.pools import borrow, ledger_pool, saver_pool
from turnstream.schemas.errors import DatabaseUnavailableError, UnstorableStateError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Admin:
    """Somebody in another database of the same server."""

    def __init__(self, connection: psycopg.Connection, name: str) -> None:
        self.connection, self.name = connection, name

    def cut(self) -> None:
        self.connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            (self.name,),
        )

    def let_in(self, allowed: bool) -> None:
        self.connection.execute(f'ALTER DATABASE "{self.name}" ALLOW_CONNECTIONS {allowed}')

    def last_said(self) -> tuple[str, str]:
        """Return the state of the ledger's one connection, and the last statement in it."""
        rows = self.connection.execute(
            "SELECT state, query FROM pg_stat_activity"
            " WHERE datname = %s AND application_name = 'turnstream-ledger'",
            (self.name,),
        )
        (row,) = rows.fetchall()
        return row


@pytest.fixture
def admin(stack: dict[str, str], database: str) -> Iterator[Admin]:
    with psycopg.connect(stack["database"], autocommit=True) as connection:
        yield Admin(connection, urlsplit(database).path[1:])


async def test_connections_that_were_cut_are_not_lent(database: str, admin: Admin) -> None:
    async with saver_pool(database, size_max=3) as pool:
        for _ in range(5):
            async with borrow(pool) as one, borrow(pool) as two:
                await one.execute("SELECT 1")
                await two.execute("SELECT 1")
            admin.cut()
            async with borrow(pool) as connection:
                await connection.execute("SELECT 1")
        assert pool.get_stats()["pool_size"] <= 3


async def test_it_connects_again_soon_after_an_outage(database: str, admin: Admin) -> None:
    """Left to itself psycopg's pool waits 1, 2, 4, 8 … seconds between two tries."""
    async with saver_pool(database, size_max=3, statement_timeout_s=4.0) as pool:
        async with borrow(pool) as connection:
            await connection.execute("SELECT 1")
        took: list[float] = []
        while not took or (took[-1] >= 2.0 and len(took) < 3):  # a busy machine may delay one
            admin.let_in(False)
            admin.cut()
            began = time.monotonic()
            with pytest.raises(PoolTimeout):
                async with borrow(pool):
                    pass
            assert time.monotonic() - began > 3.5
            admin.let_in(True)
            back = time.monotonic()
            async with borrow(pool) as connection:
                await connection.execute("SELECT 1")
            took.append(time.monotonic() - back)
        assert took[-1] < 2.0, took


async def test_a_loan_of_the_ledgers_pool_is_one_round_trip(database: str, admin: Admin) -> None:
    async with ledger_pool(database, size_max=1) as pool:
        assert await pool.fetchval("SELECT 42") == 42
        assert admin.last_said() == ("idle", "SELECT 42")


async def test_a_loan_leaves_no_open_transaction(database: str, admin: Admin) -> None:
    async with ledger_pool(database, size_max=1) as pool:
        async with pool.acquire() as connection:
            await connection.execute("BEGIN")
        assert admin.last_said()[0] == "idle"


async def test_a_commit_is_not_sent_into_a_connection_that_was_cut(
    database: str, admin: Admin
) -> None:
    async with commit_pool(database, size_max=3) as commits:
        for _ in range(5):
            await asyncio.gather(*(commits.fetch("SELECT 1") for _ in range(3)))
            admin.cut()
            assert await commits.fetch("SELECT 42 AS n") == [(42,)]


async def test_commits_wait_while_the_server_lets_nobody_in(database: str, admin: Admin) -> None:
    async with commit_pool(database, size_max=3) as commits:
        await commits.fetch("SELECT 1")
        admin.let_in(False)
        admin.cut()
        waiting = [asyncio.create_task(commits.fetch("SELECT 42 AS n")) for _ in range(30)]
        done, _ = await asyncio.wait(waiting, timeout=1.5)
        assert not done
        admin.let_in(True)
        async with asyncio.timeout(60):
            assert await asyncio.gather(*waiting) == [[(42,)]] * 30


async def test_what_is_known_after_a_statement_failed(database: str) -> None:
    async with commit_pool(database, statement_timeout_s=0.5) as commits:
        for refused, value in (
            ("SELECT $1::text", "a\x00b"),
            ("SELECT $1::text", "\udc00"),
            ("SELECT $1::text::jsonb", "{"),
            ("SELECT 1 / $1::int4", 0),
        ):
            with pytest.raises(UnstorableStateError):
                await commits.fetch(refused, value)
        with pytest.raises(DatabaseUnavailableError, match="unknown"):
            await commits.fetch("SELECT pg_sleep(60)")
        assert await commits.fetch("SELECT 1 AS n") == [(1,)]
    with pytest.raises(DatabaseUnavailableError, match="closed"):
        await commits.fetch("SELECT 1")
