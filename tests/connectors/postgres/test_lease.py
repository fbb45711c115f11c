from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid

import psycopg
import pytest

from turnstream.connectors.postgres.ledger.lease import Lease
from turnstream.schemas.errors import DatabaseUnavailableError

_HOLD = """
import asyncio, sys, uuid
from turnstream.connectors.postgres.ledger.lease import Lease

async def main():
    lease = Lease(sys.argv[1], uuid.UUID(sys.argv[2]), "child", ttl_s=float(sys.argv[3]))
    async with lease:
        print("held", flush=True)
        while True:
            lease.beat()
            await asyncio.sleep(0.05)

asyncio.run(main())
"""


async def until(condition, deadline_s: float = 60.0):
    """Poll an async condition until it is true."""
    end = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def beating(lease: Lease):
    async def beat():
        while True:
            lease.beat()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


@contextlib.asynccontextmanager
async def child_with_lease(scene, dsn, ttl_s):
    """Another process that holds a lease, and a thread that it owns."""
    worker = uuid.uuid4()
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, dsn, str(worker), str(ttl_s)], stdout=subprocess.PIPE
    )
    try:
        assert await asyncio.to_thread(process.stdout.readline) == b"held\n"
        (scene.claim,) = (await scene.admit(worker, scene.start("1"))).claims
        process.worker = worker
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


async def alive(scene, worker) -> bool:
    return bool(await scene.pool.fetchval("SELECT 1 FROM workers WHERE worker = $1", worker))


async def test_the_lease_is_renewed_while_the_loop_ticks(scene, ledger_dsn):
    lease = Lease(ledger_dsn, uuid.uuid4(), "w", ttl_s=30.0, renew_every_s=0.1)

    async def left():
        return await scene.pool.fetchval(
            "SELECT lease_until FROM workers WHERE worker = $1", lease.worker
        )

    async with lease, beating(lease):
        for _ in range(3):
            before = await left()

            async def renewed(before=before):
                return await left() > before

            await until(renewed)
            assert lease.state == "held"
        assert await scene.ledger.reap() == 0
        assert await alive(scene, lease.worker)
    assert not await alive(scene, lease.worker)


async def test_leaving_gives_back_what_is_left(scene, ledger_dsn):
    lease = Lease(ledger_dsn, uuid.uuid4(), "w")
    async with lease:
        await scene.admit(lease.worker, scene.start("1"))
    assert await scene.ready() == ["acme/a"]


async def test_without_ticks_it_holds_and_then_goes_on(scene, ledger_dsn):
    told = []
    lease = Lease(
        ledger_dsn, uuid.uuid4(), "w", ttl_s=1.5, renew_every_s=0.5, on_change=told.append
    )

    async def holds():
        return told == ["holding"]

    async def goes_on():
        return told == ["holding", "held"]

    async with lease:
        assert lease.steady_s > 0
        await until(holds)
        assert lease.state == "holding"
        assert lease.steady_s == 0
        again = time.monotonic()
        async with beating(lease):
            await until(goes_on)
            assert 0 < lease.steady_s < time.monotonic() - again, "it counts from the renewal on"
    assert lease.state == "held"


async def test_a_loop_that_ticks_late_keeps_the_lease(scene, ledger_dsn):
    """On busy cores it ticks less often than renewals are due."""
    told = []
    lease = Lease(
        ledger_dsn, uuid.uuid4(), "w", ttl_s=60.0, renew_every_s=0.05, on_change=told.append
    )

    async def left():
        return await scene.pool.fetchval(
            "SELECT lease_until FROM workers WHERE worker = $1", lease.worker
        )

    async with lease:
        for _ in range(3):
            await asyncio.sleep(0.4)  # longer than between two renewals: the fault
            before = await left()
            lease.beat()

            async def renewed(before=before):
                return await left() > before

            await until(renewed)
    assert told == []


async def test_a_blocked_loop_is_excused_for_a_while(scene, ledger_dsn):
    told = []
    lease = Lease(
        ledger_dsn,
        uuid.uuid4(),
        "w",
        ttl_s=1.0,
        renew_every_s=0.2,
        excuse_s=2.5,
        on_change=told.append,
    )

    async def holds():
        return told == ["holding"]

    began = time.monotonic()
    async with lease:
        await until(holds)
        assert time.monotonic() - began > 2.5, "it was renewed without a tick"
        assert lease.faltered


async def test_renewals_say_how_long_kafka_has_been_silent(scene, ledger_dsn):
    silent_s: float | None = 0.0
    mine, peer = uuid.uuid4(), uuid.uuid4()
    lease = Lease(ledger_dsn, peer, "w", renew_every_s=0.05, silent_s=lambda: silent_s)

    async def unheard():
        return not await scene.ledger.peer_hears(mine, 4.0)

    async with lease, beating(lease):
        assert await scene.ledger.peer_hears(mine, 4.0)
        assert not await scene.ledger.peer_hears(peer, 4.0), "it is no peer of itself"
        silent_s = 60.0
        await until(unheard)
        silent_s = 0.0
        await until(lambda: scene.ledger.peer_hears(mine, 4.0))
        silent_s = None
        await until(unheard)
        silent_s = 0.0
        await until(lambda: scene.ledger.peer_hears(mine, 4.0))
    assert await unheard(), "nobody is left"


@pytest.mark.parametrize("silent_s", [60.0, None])
async def test_a_new_life_does_not_pretend_to_hear_kafka(scene, ledger_dsn, silent_s):
    peer = Lease(ledger_dsn, uuid.uuid4(), "w", renew_every_s=60.0, silent_s=lambda: silent_s)
    async with peer:
        assert not await scene.ledger.peer_hears(uuid.uuid4(), 4.0)


async def test_a_reaped_worker_is_lost(scene, ledger_dsn):
    told = []
    lease = Lease(
        ledger_dsn, uuid.uuid4(), "w", ttl_s=0.4, renew_every_s=0.1, on_change=told.append
    )

    async def holds():
        return told == ["holding"]

    async def lost():
        return lease.state == "lost" and told == ["holding", "lost"]

    async with lease:
        await scene.admit(lease.worker, scene.start("1"))
        await until(lambda: reaped(scene))
        assert await scene.ready() == ["acme/a"]
        await until(holds)
        async with beating(lease):
            await until(lost)


@pytest.mark.parametrize("blocked", [False, True], ids=["cut off", "blocked"])
async def test_a_loss_tells_whether_the_loop_had_faltered(ledger_dsn, blocked):
    lease = Lease(ledger_dsn, uuid.uuid4(), "w", ttl_s=30.0, renew_every_s=1.0)

    async def lost():
        return lease.state == "lost"

    async with lease, beating(lease):
        await asyncio.sleep(0)
        if blocked:
            time.sleep(1.2)  # the fault: nothing else runs on the loop
        with psycopg.connect(ledger_dsn, autocommit=True) as peer:
            peer.execute("DELETE FROM workers WHERE worker = %s", (lease.worker,))
        await until(lost)
        assert lease.faltered is blocked


async def reaped(scene) -> bool:
    return await scene.ledger.reap() == 1


async def test_a_restored_database_ends_the_lease(scene, ledger_dsn):
    """Its attempts are fenced for ever, so its threads would have an owner who does nothing."""
    lease = Lease(ledger_dsn, uuid.uuid4(), "w", renew_every_s=0.05)

    async def lost():
        return lease.state == "lost"

    async with lease, beating(lease):
        await scene.admit(lease.worker, scene.start("1"), scene.start("2", "b"), room=1)
        await scene.pool.execute("SELECT raise_timeline()")
        assert await scene.ledger.reclaim(lease.worker, 1) == []
        await until(lost)
        assert await scene.ledger.reap() == 1
    claims = await scene.ledger.reclaim(await scene.worker(), 2)
    assert sorted(c.thread_key for c in claims) == ["acme/a", "acme/b"]


async def test_a_cut_connection_loses_nothing(scene, ledger_dsn):
    lease = Lease(ledger_dsn, uuid.uuid4(), "w")
    async with lease, beating(lease):
        pid = "SELECT pid FROM workers WHERE worker = $1"
        first = await scene.pool.fetchval(pid, lease.worker)
        assert lease.steady_s > 0
        await scene.pool.execute("SELECT pg_terminate_backend($1)", first)

        async def renewed():
            return await scene.pool.fetchval(pid, lease.worker) not in (first, None)

        cut = time.monotonic()
        await until(renewed)
        assert lease.steady_s < time.monotonic() - cut, "it is held anew"
        assert await scene.ledger.reap() == 0
        assert lease.state == "held"


async def test_a_killed_worker_is_seen_without_waiting_for_its_time(scene, ledger_dsn):
    async with child_with_lease(scene, ledger_dsn, ttl_s=600.0) as child:
        assert await scene.ledger.reap() == 0
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: reaped(scene))
        assert await scene.ready() == ["acme/a"]


async def test_a_frozen_worker_is_reaped_when_its_time_is_over(scene, ledger_dsn):
    async with child_with_lease(scene, ledger_dsn, ttl_s=3.0) as child:
        os.kill(child.pid, signal.SIGSTOP)
        try:
            assert await scene.ledger.reap() == 0
            await until(lambda: reaped(scene))
        finally:
            os.kill(child.pid, signal.SIGCONT)
    (claim,) = await scene.ledger.reclaim(await scene.worker(), 1)
    assert claim.epoch == scene.claim.epoch + 1


async def test_after_a_restart_of_the_server_only_time_tells(scene):
    """All sessions are missing then, also those of workers that live."""
    worker = await scene.worker()
    gone = "UPDATE workers SET pid = 1, backend_start = pg_postmaster_start_time() + $1::interval"
    await scene.pool.execute(gone.replace("$1", "'-1 s'"))
    assert await scene.ledger.reap() == 0
    assert await alive(scene, worker)
    await scene.pool.execute(gone.replace("$1", "'1 us'"))
    await scene.ledger.reap()
    assert not await alive(scene, worker)


async def test_a_reaped_worker_claims_nothing_more(scene):
    worker = await scene.worker(ttl_s=0)
    (claim,) = (await scene.admit(worker, scene.start("1"), scene.start("2"))).claims
    await scene.ledger.reap()
    assert await scene.run(worker, claim) == []
    assert await scene.ledger.reclaim(worker, 1) == []
    assert await scene.ready() == ["acme/a"]


async def test_the_reaper_waits_for_a_claim_under_way(scene):
    worker = await scene.worker(ttl_s=0)
    async with scene.pool.acquire() as connection, connection.transaction():
        assert await connection.fetchval("SELECT worker_room($1, 1)", worker) == 1
        assert await scene.ledger.reap() == 0
        assert await alive(scene, worker)
    await scene.ledger.reap()
    assert not await alive(scene, worker)


async def test_no_server_is_our_error():
    with pytest.raises(DatabaseUnavailableError):
        async with Lease("postgresql://nobody@127.0.0.1:1/none", uuid.uuid4(), "w"):
            pass
