"""Postgres or Kafka is away under load: turns hold, nobody is rewound, nothing is lost.

Short outages by default, longer than a lease and than `ack_stall_s`. The full ones, of 20 s and of
60 s at default settings:
`TURNSTREAM_TEST_FULL_OUTAGES=1 pytest tests/integration/faults/test_outages.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg
import pytest

from turnstream.connectors.postgres.migrate import migrate
from turnstream.schemas.fold.fold import Verdict
from turnstream.schemas.records.events import TokensEmitted, TurnCompleted

if TYPE_CHECKING:
    from outage_servers import Servers

FULL = bool(os.environ.get("TURNSTREAM_TEST_FULL_OUTAGES"))
KAFKA_ENDS = [signal.SIGTERM, signal.SIGKILL] if FULL else [signal.SIGKILL]
POSTGRES_S = 20.0 if FULL else 5.0
KAFKA_S = 60.0 if FULL else 5.0
STALL_S = 10.0 if FULL else 2.0
THREADS = 24
TOOLS = 'tool=current_time({"zone":"Asia/Seoul"}) reasoning=20 rounds=%d tokens=20 rate=50'
"""Steps of half a second, each with two commits."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def stack(servers: Servers) -> dict[str, str]:
    return {"kafka": servers.stack.kafka_bootstrap, "database": servers.stack.database_url}


@pytest.fixture
def kafka(servers: Servers) -> str:
    return servers.stack.kafka_bootstrap


@pytest.fixture
def ledger_dsn(servers: Servers) -> str:
    admin, name = servers.stack.database_url, f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    dsn = urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))
    migrate(dsn)
    return dsn


async def load(scene: Any, seconds: float) -> dict[str, str]:
    """Start turns that go on for so long: half of them in one step, half in many."""
    turns = {}
    for i in range(THREADS):
        text = f"tokens={int(seconds * 25)} rate=25"
        if i % 2:
            text = TOOLS % max(1, seconds / 0.5)
        turns[f"t{i}"] = await scene.start(f"t{i}", text)
    await scene.until(lambda: all(speaks(scene, *turn) for turn in turns.items()))
    await first_committed(scene)
    return turns


async def first_committed(scene: Any) -> None:
    """Wait for the commit of each turn's input, which is made a moment after it began to speak.

    A turn of one step makes no other until its end, so an outage from here on finds it in a step.
    """
    query = "SELECT count(DISTINCT thread_id) FROM checkpoints"
    async with asyncio.timeout(60):
        while await scene.db.fetchval(query) < THREADS:
            await asyncio.sleep(0.01)


def speaks(scene: Any, thread: str, turn: str) -> bool:
    view = scene.view(thread, turn)
    return view is not None and any(isinstance(item, TokensEmitted) for item in view.items)


async def check(scene: Any, turns: dict[str, str]) -> dict[str, int]:
    """See that every turn completed, whole and once; returns each thread's attempts."""
    attempts: dict[str, int] = {}
    for thread, turn in turns.items():
        view = await scene.done(thread, turn, 90)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
        assert (view.gaps, view.partial) == (0, False)
        attempts[thread] = view.attempts
    await scene.until(lambda: {r.turn_id for r in scene.results} >= set(turns.values()))
    database = await asyncpg.connect(scene.settings.database_url.get_secret_value())
    try:
        async with asyncio.timeout(60):
            while await database.fetchval("SELECT count(*) FROM turns WHERE closed_at IS NULL"):
                await asyncio.sleep(0.05)
        assert await database.fetchval("SELECT count(*) FROM turns") == len(turns)
        assert not await database.fetchval("SELECT count(*) FROM threads WHERE owner IS NOT NULL")
    finally:
        await database.close()
    return attempts


def check_rewinds(attempts: dict[str, int]) -> None:
    """Few began again, and none of those that were within a step.

    A commit that was on its way when the server ended may or may not stand: its turn starts again.
    """
    assert {attempts[f"t{i}"] for i in range(0, THREADS, 2)} == {1}
    many = [attempts[f"t{i}"] for i in range(1, THREADS, 2)]
    assert max(many) <= 2
    assert list(attempts.values()).count(1) >= THREADS - 3


async def workers(scene: Any, **environment: str) -> list[Any]:
    started = [scene.process(name, **environment) for name in ("first", "second")]
    for worker in started:
        await worker.ready()
    return started


async def test_postgres_is_away_under_load(scene: Any, servers: Servers) -> None:
    started = await workers(scene)
    turns = await load(scene, POSTGRES_S + 4)
    await servers.end("postgres", signal.SIGINT)
    said = len(scene.log)
    await asyncio.sleep(POSTGRES_S)
    await servers.start("postgres")
    attempts = await check(scene, turns)
    told = Counter(attempts.values())
    print(f"\nPostgres away for {POSTGRES_S:.0f} s: attempts a turn {dict(told)}")
    assert len(scene.log) > said
    check_rewinds(attempts)
    assert all(worker.process.poll() is None for worker in started)


async def test_postgres_is_killed_under_load(scene: Any, servers: Servers) -> None:
    await workers(scene)
    turns = await load(scene, 5)
    await servers.end("postgres", signal.SIGKILL)
    await servers.start("postgres")
    attempts = await check(scene, turns)
    print(f"\nPostgres killed and started: attempts a turn {dict(Counter(attempts.values()))}")
    check_rewinds(attempts)


@pytest.mark.parametrize("how", KAFKA_ENDS, ids=lambda how: how.name)
async def test_kafka_is_away_under_load(scene: Any, servers: Servers, how: signal.Signals) -> None:
    started = await workers(scene, ACK_STALL_S=str(STALL_S))
    turns = await load(scene, KAFKA_S / 2)
    await servers.end("kafka", how)
    await asyncio.sleep(KAFKA_S)
    await servers.start("kafka")
    turns["after"] = await scene.start("after", "tokens=3")
    attempts = await check(scene, turns)
    told = Counter(attempts.values())
    print(f"\nKafka away for {KAFKA_S:.0f} s ({how.name}): attempts a turn {dict(told)}")
    assert told == {1: len(turns)}
    assert Verdict.REWOUND not in scene.verdicts
    logged = "".join(worker.log.read_text() for worker in started)
    assert "acks_stalled" in logged, "the outage was shorter than it should be"
    assert "threads_left_to_peers" not in logged
    assert all(worker.process.poll() is None for worker in started)
