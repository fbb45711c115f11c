"""Two workers reach for one thread in the same moment; held apart by locks, not by luck."""

from __future__ import annotations

import asyncio

import asyncpg

from turnstream.connectors.postgres.ledger.ledger import Ledger


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


async def admitted_behind(scene, command):
    """Admit a command from another partition while a worker starts a turn on its idle thread.

    Returns that turn's claim, and what the command, which had to wait for the thread, came to.
    """
    one, two = await scene.worker(), await scene.worker()
    (before,) = (await scene.admit(one, scene.start("0"))).claims
    await scene.run(one, before)
    await scene.ledger.open_position("turns", 1, 0)
    async with scene.pool.acquire() as first, scene.pool.acquire() as late:
        backend = await late.fetchval("SELECT pg_backend_pid()")
        async with first.transaction():
            # a lock alone: behind a changed row even the insert of the thread would wait
            await first.execute("SELECT 1 FROM threads WHERE thread_key = 'acme/a' FOR UPDATE")
            admitting = asyncio.create_task(
                Ledger(late).admit("turns", 1, 0, 1, [command], worker=two, room=1)
            )
            await until_blocked(scene.pool, backend)
            given = await Ledger(first).admit(
                "turns", 0, scene.at, scene.at + 1, [scene.start("1")], worker=one, room=1
            )
        return given.claims[0], await admitting


async def test_whether_a_thread_is_busy_is_decided_under_its_lock(scene):
    """A2: both batches find the thread idle if neither waits for the other."""
    _, behind = await admitted_behind(scene, scene.start("2", on_busy="reject"))
    (ended,) = behind.ended
    assert ended.outcome.code == "thread_busy"
    assert behind.claims == ()


async def test_whether_a_thread_is_idle_is_looked_at_under_its_lock(scene):
    """A4: the later batch would claim a thread that has an owner by now."""
    claim, behind = await admitted_behind(scene, scene.start("2"))
    assert behind.claims == ()
    row = await scene.ledger.thread("acme/a")
    assert (row.epoch, await scene.ready()) == (claim.epoch, [])
    (after,) = await scene.run(row.owner, claim)
    assert after.turn_id == scene.turn_id("2")
