"""The ledger of tool calls: one suite over the twin and over Postgres."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from langchain_core.messages import ToolMessage
from langgraph.types import Command

from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.memory.tool_calls import MemoryToolCalls
from turnstream.connectors.postgres.checkpoints.commit_pool import commit_pool
from turnstream.connectors.postgres.checkpoints.commit_queue import Item
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
from turnstream.connectors.postgres.checkpoints.statements import Rows, WriteRow
from turnstream.connectors.postgres.ledger.ledger import Ledger
from turnstream.connectors.postgres.pools import ledger_pool, saver_pool
from turnstream.connectors.postgres.stores.threads import Threads
from turnstream.schemas.errors import FencedError, UnstorableStateError
from turnstream.schemas.tool_calls import ToolCall, call_digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.connectors.postgres.checkpoints.commits import Session
    from turnstream.graph.ports.tools import ToolCalls

pytestmark = pytest.mark.promises("P8", "P9")

KEY = "default/t"


def call(ordinal: int = 0, path: str = "task", arguments: str = "{}") -> ToolCall:
    return ToolCall(path, ordinal, "act", call_digest("act", arguments), "key", "call-1")


@dataclass
class Memory:
    rows: dict[Any, Any] = field(default_factory=dict)

    def attempt(self, origin: uuid.UUID) -> ToolCalls:
        return MemoryToolCalls(self.rows, origin=origin)


@dataclass
class Real:
    """A thread in Postgres; each attempt raises its epoch."""

    saver: FencedSaver
    dsn: str
    cancels: list[str] = field(default_factory=list)

    def sql(self, query: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def waiting(self) -> list[Any]:
        return self.sql(
            "SELECT 1 FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )

    def session(self, origin: uuid.UUID, log: MemoryEmitter | None = None) -> Session:
        ((epoch,),) = self.sql(
            "INSERT INTO threads (thread_key, partition, epoch) VALUES (%s, 0, timeline() << 40)"
            " ON CONFLICT (thread_key) DO UPDATE SET epoch = threads.epoch + 1 RETURNING epoch",
            KEY,
        )
        return self.saver.session(
            thread_key=KEY,
            turn_id=uuid.uuid4(),
            epoch=epoch,
            origin=origin,
            log=log or MemoryEmitter(),
            on_cancel=self.cancels.append,
        )

    def attempt(self, origin: uuid.UUID) -> ToolCalls:
        return self.session(origin).tool_calls


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Real]:
    async with saver_pool(dsn, size_max=4) as pool, commit_pool(dsn, size_max=4) as commits:
        yield Real(FencedSaver(pool, commits), dsn)


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.servers)])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Memory | Real]:
    if request.param == "memory":
        yield Memory()
        return
    async with opened(request.getfixturevalue("ledger_dsn")) as made:
        yield made


@pytest.fixture
async def real(ledger_dsn: str) -> AsyncIterator[Real]:
    async with opened(ledger_dsn) as made:
        yield made


async def test_a_result_is_found_by_every_later_attempt_of_the_chain(ledger: Any) -> None:
    origin = uuid.uuid4()
    first = ledger.attempt(origin)
    assert (await first.start(call())).state == "new"
    await first.finish(call(), {"text": "done \x00 \ud800".encode("utf-16", "surrogatepass")})
    again = await ledger.attempt(origin).start(call())
    assert again.state == "done"
    assert again.result["text"].decode("utf-16", "surrogatepass") == "done \x00 \ud800"


async def test_a_start_without_a_result_stays_one(ledger: Any) -> None:
    origin = uuid.uuid4()
    assert (await ledger.attempt(origin).start(call())).state == "new"
    later = ledger.attempt(origin)
    assert (await later.start(call())).state == "started"
    assert (await later.start(call())).state == "started"
    await later.finish(call(), "unknown")
    assert await ledger.attempt(origin).start(call()) == ("done", "unknown")


async def test_a_recorded_result_is_never_replaced(ledger: Any) -> None:
    attempt = ledger.attempt(uuid.uuid4())
    await attempt.start(call())
    await attempt.finish(call(), "first")
    await attempt.finish(call(), "second")
    await attempt.ask(call())
    assert (await attempt.start(call())).result == "first"


async def test_calls_are_told_apart_by_origin_path_and_ordinal(ledger: Any) -> None:
    origin = uuid.uuid4()
    attempt = ledger.attempt(origin)
    await attempt.start(call())
    for other in (call(1), call(path="task|inner")):
        assert (await attempt.start(other)).state == "new"
    assert (await ledger.attempt(uuid.uuid4()).start(call())).state == "new"


async def test_other_arguments_are_another_call_and_change_nothing(ledger: Any) -> None:
    origin = uuid.uuid4()
    attempt = ledger.attempt(origin)
    await attempt.start(call())
    assert (await attempt.start(call(arguments='{"a":1}'))).state == "other"
    await attempt.finish(call(), "result")
    assert (await attempt.start(call(arguments='{"a":1}'))).state == "other"
    assert await attempt.start(call()) == ("done", "result")


async def test_a_call_that_asked_is_made_again_and_then_is_a_start_like_any(ledger: Any) -> None:
    origin = uuid.uuid4()
    first = ledger.attempt(origin)
    await first.start(call())
    await first.ask(call())
    answered = ledger.attempt(origin)
    assert (await answered.start(call())).state == "new"
    assert (await ledger.attempt(origin).start(call())).state == "started"


async def test_calls_without_a_result_are_told_of_the_whole_chain(ledger: Any) -> None:
    origin = uuid.uuid4()
    first = ledger.attempt(origin)
    for ordinal in range(3):
        await first.start(call(ordinal))
    await first.finish(call(0), "result")
    await first.ask(call(1))
    await ledger.attempt(uuid.uuid4()).start(call(7))
    (begun,) = await ledger.attempt(origin).begun()
    assert begun == call(2)._replace(idempotency_key="")


@pytest.mark.parametrize(
    "result",
    [
        ToolMessage("it is done", tool_call_id="c", name="act", status="error", artifact={"a": 1}),
        Command(update={"messages": [ToolMessage("x", tool_call_id="c")]}, goto="next"),
        {"text": "plain", "code": ""},
    ],
)
async def test_results_of_any_kind_come_back_as_they_were(ledger: Any, result: Any) -> None:
    attempt = ledger.attempt(uuid.uuid4())
    await attempt.start(call())
    await attempt.finish(call(), result)
    assert (await attempt.start(call())).result == result


# -- Postgres alone --------------------------------------------------------------------------------


@pytest.mark.promises("P6")
async def test_a_superseded_attempt_records_nothing_and_is_lost(real: Real) -> None:
    origin = uuid.uuid4()
    frozen = real.session(origin)
    await frozen.tool_calls.start(call())
    newer = real.attempt(origin)
    with pytest.raises(FencedError):
        await frozen.tool_calls.finish(call(), "too late")
    assert isinstance(frozen.lost, FencedError)
    assert (await newer.start(call())).state == "started"
    older = real.session(origin)
    real.sql("UPDATE threads SET epoch = epoch + 1")
    with pytest.raises(FencedError):
        await older.tool_calls.start(call(7))
    assert real.sql("SELECT count(*) FROM tool_calls") == [(1,)]


@pytest.mark.promises("P6")
async def test_an_attempt_of_another_timeline_records_nothing(real: Real) -> None:
    session = real.session(uuid.uuid4())
    real.sql("SELECT raise_timeline()")
    with pytest.raises(FencedError):
        await session.tool_calls.start(call())
    assert real.sql("SELECT * FROM tool_calls") == []


async def test_a_start_waits_for_a_claim_that_is_under_way(real: Real) -> None:
    """The epoch that counts is the one after the lock was waited for."""
    session = real.session(uuid.uuid4())
    with psycopg.connect(real.dsn) as claiming:
        claiming.execute("UPDATE threads SET epoch = epoch + 1")
        starting = asyncio.create_task(session.tool_calls.start(call()))
        async with asyncio.timeout(60):
            while not real.waiting():
                assert not starting.done()
                await asyncio.sleep(0.002)
        claiming.commit()
    with pytest.raises(FencedError):
        await starting
    assert real.sql("SELECT * FROM tool_calls") == []


async def test_no_call_begins_once_the_turn_is_to_stop(real: Real) -> None:
    session = real.session(uuid.uuid4())
    real.sql("UPDATE threads SET cancel = 'cancel'")
    with pytest.raises(asyncio.CancelledError):
        await session.tool_calls.start(call())
    assert real.cancels == ["cancel"]
    real.sql("UPDATE threads SET cancel = NULL")
    session.stop()
    with pytest.raises(asyncio.CancelledError):
        await session.tool_calls.start(call())
    assert real.sql("SELECT * FROM tool_calls") == []


async def test_what_waits_to_be_committed_is_committed_before_a_call_begins(real: Real) -> None:
    log = MemoryEmitter(auto=False)
    session = real.session(uuid.uuid4(), log)
    row = WriteRow("", "checkpoint", str(uuid.UUID(int=1)), "", 0, "messages", "null", b"")
    session._queue.append(Item(ns="", rows=Rows(writes=[row]), n=0, checkpoint_id="checkpoint"))
    log.n = 1
    starting = asyncio.create_task(session.tool_calls.start(call()))
    async with asyncio.timeout(60):
        while not log.waited_for:
            await asyncio.sleep(0.002)
    assert real.sql("SELECT * FROM tool_calls") == []
    log.ack(1)
    await starting
    assert real.sql("SELECT count(*) FROM checkpoint_writes") == [(1,)]


async def test_a_result_is_recorded_though_its_caller_is_cancelled(real: Real) -> None:
    attempt = real.attempt(uuid.uuid4())
    await attempt.start(call())
    with psycopg.connect(real.dsn) as other:
        other.execute("SELECT 1 FROM threads FOR UPDATE")
        finishing = asyncio.create_task(attempt.finish(call(), "worth it"))
        async with asyncio.timeout(60):
            while not real.waiting():
                await asyncio.sleep(0.002)
        finishing.cancel()
        await asyncio.wait([finishing])
        other.commit()
    async with asyncio.timeout(60):
        while real.sql("SELECT state FROM tool_calls") != [("done",)]:
            await asyncio.sleep(0.002)


async def test_a_result_that_cannot_be_stored_says_so(real: Real) -> None:
    attempt = real.attempt(uuid.uuid4())
    await attempt.start(call())
    with pytest.raises(UnstorableStateError, match="the result of act"):
        await attempt.finish(call(), asyncio.Event())


async def test_old_calls_are_forgotten_but_not_those_of_a_chain_that_may_go_on(real: Real) -> None:
    from datetime import timedelta

    attempt = real.attempt(uuid.uuid4())
    await attempt.start(call())
    async with ledger_pool(real.dsn) as pool:
        store = Ledger(pool)
        real.sql("UPDATE threads SET interrupt = '{}'")
        await store.purge(timedelta(0), 10)
        real.sql("UPDATE threads SET interrupt = NULL, head = 1")
        await store.purge(timedelta(0), 10)
        real.sql("UPDATE threads SET head = NULL")
        await store.purge(timedelta(hours=1), 10)
        assert real.sql("SELECT count(*) FROM tool_calls") == [(1,)]
        await store.purge(timedelta(0), 10)
        assert real.sql("SELECT * FROM tool_calls") == []


async def test_a_deleted_threads_calls_go_with_it(real: Real) -> None:
    await real.attempt(uuid.uuid4()).start(call())
    async with ledger_pool(real.dsn) as pool:
        await Threads(pool).delete("default/other")
        assert real.sql("SELECT count(*) FROM tool_calls") == [(1,)]
        await Threads(pool).delete(KEY)
    assert real.sql("SELECT * FROM tool_calls") == []
