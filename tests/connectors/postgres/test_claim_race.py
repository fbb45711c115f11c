"""Two workers reach for one thread in the same moment; held apart by locks, not by luck."""

from __future__ import annotations

import asyncio

import asyncpg


async def until_blocked(pool: asyncpg.Pool, backend: int) -> None:
    """Wait until a backend waits for a lock."""
    async with asyncio.timeout(60):
        while (
            await pool.fetchval(
                "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $1", backend
            )
            != "Lock"
        ):
            await asyncio.sleep(0.005)


async def test_who_read_ready_first_does_not_take_a_thread_that_has_an_owner(scene):
    """The late one has seen the thread in `ready`; when it gets the row, somebody owns it."""
    one, two = await scene.worker(), await scene.worker()
    await scene.admit(one, scene.start("1"), room=0)
    async with scene.pool.acquire() as first, scene.pool.acquire() as late:
        backend = await late.fetchval("SELECT pg_backend_pid()")
        async with first.transaction():
            await first.execute("LOCK TABLE threads IN EXCLUSIVE MODE")
            reaching = asyncio.create_task(late.fetch("SELECT * FROM reclaim($1, 5)", two))
            await until_blocked(scene.pool, backend)  # it has read `ready` and wants the row
            (claim,) = await first.fetch("SELECT * FROM reclaim($1, 5)", one)
        assert await reaching == []
    row = await scene.ledger.thread("acme/a")
    assert (row.owner, row.epoch) == (one, claim["epoch"])
    assert await scene.ready() == []


async def test_a_finish_that_waits_does_not_claim_behind_a_new_owner(scene):
    """The owner was taken for dead and the thread claimed, while its finish waited for the row."""
    one, two = await scene.worker(), await scene.worker()
    given = await scene.admit(one, scene.start("1"), scene.start("2"))
    (claim,) = given.claims
    assert await scene.settle(claim)
    async with scene.pool.acquire() as first, scene.pool.acquire() as late:
        backend = await late.fetchval("SELECT pg_backend_pid()")
        async with first.transaction():
            await first.execute("SELECT 1 FROM threads WHERE thread_key = 'acme/a' FOR UPDATE")
            finish = "SELECT * FROM finish($1, 5, $2, $3, $4, $5)"
            item = (["acme/a"], [claim.epoch], [9], [1])
            finishing = asyncio.create_task(late.fetch(finish, one, *item))
            await until_blocked(scene.pool, backend)
            await first.execute("UPDATE threads SET owner = NULL")
            await first.execute("INSERT INTO ready (thread_key) VALUES ('acme/a')")
            (again,) = await first.fetch("SELECT * FROM reclaim($1, 5)", two)
        assert await finishing == []
    assert again["turn_id"] == claim.turn_id
    row = await scene.ledger.thread("acme/a")
    assert (row.owner, row.epoch) == (two, again["epoch"])
