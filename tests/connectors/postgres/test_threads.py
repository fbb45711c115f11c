from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import pytest

from turnstream.connectors.postgres.ledger.ledger import Admission, Ledger
from turnstream.connectors.postgres.pools import ledger_pool
from turnstream.connectors.postgres.stores.threads import Threads
from turnstream.schemas.errors import DatabaseUnavailableError, InvalidRequestError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def pool(ledger_dsn: str) -> AsyncIterator[asyncpg.Pool]:
    async with ledger_pool(ledger_dsn, size_max=2) as opened:
        yield opened


async def admit(pool: asyncpg.Pool, thread_id: str, *, graph: str = "agent") -> UUID:
    """Let a backend start a turn: the ledger gets to know the thread, `thread_info` does not."""
    ledger, turn = Ledger(pool), uuid4()
    topic = f"turns-{turn}"
    await ledger.open_position(topic, 0, 0)
    command = Admission(
        kind="start",
        tenant="acme",
        thread_id=thread_id,
        thread_key=f"acme/{thread_id}",
        turn_id=turn,
        partition=0,
        src_off=0,
        body=b"x",
        body_sha=b"x",
        graph=graph,
    )
    await ledger.admit(topic, 0, 0, 1, [command], worker=uuid4(), room=0)
    return turn


async def test_made_merged_deleted_and_made_again(pool: asyncpg.Pool) -> None:
    threads = Threads(pool)
    assert await threads.get("acme/t") is None
    assert await threads.create("acme/t", {"a": 1})
    assert not await threads.create("acme/t", {"a": 2})
    await threads.ensure("acme/t", {"b": {"c": [1, None]}})
    found = await threads.get("acme/t")
    assert found is not None
    assert (found.thread_id, found.metadata) == ("t", {"a": 1, "b": {"c": [1, None]}})
    assert (found.status, found.graph) == ("idle", None)
    await threads.delete("acme/t")
    assert await threads.get("acme/t") is None
    assert await threads.create("acme/t", {})
    again = await threads.get("acme/t")
    assert again is not None
    assert again.metadata == {}
    assert again.created_at > found.created_at


async def test_a_thread_that_a_backend_started_is_found(pool: asyncpg.Pool) -> None:
    threads = Threads(pool)
    await admit(pool, "from-kafka", graph="mine")
    found = await threads.get("acme/from-kafka")
    assert found is not None
    assert (found.status, found.graph, found.metadata) == ("busy", "mine", {})
    assert [one.thread_id for one in await threads.search("acme", status="busy")] == ["from-kafka"]
    await threads.delete("acme/from-kafka")
    assert not await threads.exists("acme/from-kafka")


async def test_search_keeps_to_its_tenant_and_its_conditions(pool: asyncpg.Pool) -> None:
    threads = Threads(pool)
    for name in ("c", "a", "b"):
        await threads.create(f"acme/{name}", {"kind": "chat", "n": {"c": 3, "a": 1, "b": 2}[name]})
    await threads.create("acme0/x", {"kind": "chat"})
    await threads.create("acme-x/y", {"kind": "chat"})
    await threads.create("other/z", {"kind": "chat"})
    by_id = await threads.search("acme", sort_by="thread_id", descending=False)
    assert [one.thread_id for one in by_id] == ["a", "b", "c"]
    newest = await threads.search("acme", metadata={"kind": "chat"})
    assert [one.thread_id for one in newest] == ["b", "a", "c"]
    page = await threads.search("acme", limit=1, offset=1)
    assert [one.thread_id for one in page] == ["a"]
    assert [one.thread_id for one in await threads.search("acme", metadata={"n": 2})] == ["b"]
    assert await threads.search("acme", status="interrupted") == []
    assert [one.thread_id for one in await threads.search("acme", ids=["c", "z"])] == ["c"]
    assert await threads.count("acme") == 3
    assert await threads.count("acme", metadata={"n": 9}) == 0


async def test_status_follows_the_newest_turn(pool: asyncpg.Pool) -> None:
    threads = Threads(pool)
    turn = await admit(pool, "t")
    # a text with U+0000, which JSON operators of Postgres refuse
    outcome = '{"status":"failed","code":"x","text":"a\\u0000b"}'
    await pool.execute("UPDATE turns SET outcome = $2 WHERE turn_id = $1", turn, outcome)
    found = await threads.get("acme/t")
    assert found is not None
    assert found.status == "error"
    await pool.execute("""UPDATE threads SET interrupt = '{"turn_id": "x", "ids": ["i"]}'""")
    found = await threads.get("acme/t")
    assert found is not None
    assert (found.status, found.interrupts) == ("interrupted", ("i",))


async def test_what_postgres_cannot_hold_is_the_callers_fault(pool: asyncpg.Pool) -> None:
    with pytest.raises(InvalidRequestError):
        await Threads(pool).create("acme/t", {"text": "a\x00b"})


async def test_a_database_that_is_gone_is_said_so(pool: asyncpg.Pool) -> None:
    threads = Threads(pool)
    pool.terminate()
    with pytest.raises(DatabaseUnavailableError):
        await threads.get("acme/t")


async def test_metadata_of_a_thread_is_bounded_however_it_came(pool: asyncpg.Pool) -> None:
    threads = Threads(pool)
    await threads.create("acme/t", {"a": "x" * 500})
    await threads.ensure("acme/t", {"b": "x" * 400}, bytes_max=1000)
    for _ in range(2):
        with pytest.raises(TooLargeError) as refused:
            await threads.ensure("acme/t", {"c": "x" * 100}, bytes_max=1000)
        assert refused.value.code == "metadata_too_large"
    found = await threads.get("acme/t")
    assert found is not None
    assert set(found.metadata) == {"a", "b"}
    # what it has already is no more, smaller values fit, and a run's own keys always do
    await threads.ensure("acme/t", {"b": "x" * 400}, bytes_max=1000)
    await threads.ensure("acme/t", {"b": "", "c": "x" * 100}, bytes_max=1000)
    await threads.ensure("acme/t", {"graph_id": "agent" * 200})
    await threads.ensure("acme/new", {"a": 1}, bytes_max=1000)
    assert await threads.exists("acme/new")


async def test_a_search_does_not_hold_more_metadata_than_it_is_told(pool: asyncpg.Pool) -> None:
    threads = Threads(pool)
    for number in range(5):
        await threads.create(f"acme/{number}", {"a": "x" * 1000})
    assert await threads.search("acme", bytes_max=4000) is None
    found = await threads.search("acme", bytes_max=6000, sort_by="thread_id")
    assert found is not None
    assert [one.thread_id for one in found] == ["4", "3", "2", "1", "0"]
    assert len(await threads.search("acme", bytes_max=2500, limit=2, offset=3) or []) == 2
    # what is not asked for does not count, and still decides what is found
    asked = {"a": "x" * 1000}
    found = await threads.search("acme", metadata=asked, bytes_max=4000, with_metadata=False)
    assert [one.metadata for one in found or ()] == [{}] * 5
