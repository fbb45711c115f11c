"""The pools: no statement goes into a connection that is cut, none is said for nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from turnstream.connectors.postgres.pools import borrow, ledger_pool, saver_pool

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
    async with saver_pool(database, size_max=3) as pool:
        async with borrow(pool) as connection:
            await connection.execute("SELECT 1")
        took: list[float] = []
        while not took or (took[-1] >= 2.0 and len(took) < 3):  # a busy machine may delay one
            admin.let_in(False)
            admin.cut()
            began = time.monotonic()
            with pytest.raises(PoolTimeout):
                async with borrow(pool, patience_s=4.0):
                    pass
            assert time.monotonic() - began > 3.5
            admin.let_in(True)
            back = time.monotonic()
            async with borrow(pool, patience_s=60.0) as connection:
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
