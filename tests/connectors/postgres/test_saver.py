"""The saver under its fence: what is written, in which order, and what is not."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypedDict

import psycopg
import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row

from tests.connectors.postgres.run_facts import LastBy
from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.postgres.checkpoints.commit_pool import commit_pool
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
from turnstream.connectors.postgres.pools import saver_pool
from turnstream.schemas.errors import (
    DatabaseUnavailableError,
    FencedError,
    UnstorableStateError,
)
from turnstream.schemas.records.events import Keep, ToolProgressed
from turnstream.schemas.records.results import Interrupt, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

from turnstream.connectors.postgres.checkpoints.commits import Session

KEY = "default/t"
TASK_A, TASK_B = str(uuid.UUID(int=0xA)), str(uuid.UUID(int=0xB))


class Bench:
    """A thread with a claimed turn, a saver, a session on it."""

    def __init__(self, dsn: str, saver: FencedSaver, epoch: int) -> None:
        self.dsn, self.saver, self.epoch = dsn, saver, epoch
        self.turn_id = uuid.uuid4()
        self.log = MemoryEmitter()
        self.cancels: list[str] = []
        self.lost: list[Exception] = []

    def sql(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def thread(self) -> dict[str, Any]:
        return self.sql("SELECT * FROM threads WHERE thread_key = %s", KEY)[0]

    def count(self, table: str) -> int:
        return int(self.sql(f"SELECT count(*) AS n FROM {table}")[0]["n"])

    def session(self, **rest: Any) -> Session:
        return self.saver.session(
            thread_key=KEY,
            turn_id=self.turn_id,
            epoch=self.epoch,
            log=rest.pop("log", self.log),
            on_cancel=self.cancels.append,
            on_lost=self.lost.append,
            **rest,
        )

    def claim(self) -> None:
        self.sql(
            "INSERT INTO threads (thread_key, partition, epoch) VALUES (%s, 0, %s)", KEY, self.epoch
        )
        self.sql(
            "INSERT INTO turns (tenant, turn_id, thread_key, kind, graph, origin, actor, policy,"
            " src_topic, src_part, src_off, body_sha, body) VALUES"
            " ('default', %s, %s, 'start', 'g', %s, '', 'enqueue', 'turns', 0, 0, '', '')",
            self.turn_id,
            KEY,
            self.turn_id,
        )

    def say(self, path: str = "") -> None:
        self.log.emit(ToolProgressed, path=path, tool_call_id="c", data="1")


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Bench]:
    async with (
        saver_pool(dsn, size_max=4) as pool,
        commit_pool(dsn, size_max=4) as commits,
    ):
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT (timeline() << 40) + 1").fetchone()
        assert row is not None
        made = Bench(dsn, FencedSaver(pool, commits), row[0])
        made.claim()
        yield made


@pytest.fixture
async def bench(ledger_dsn: str) -> AsyncIterator[Bench]:
    async with opened(ledger_dsn) as made:
        yield made


def config(ns: str = "", checkpoint_id: str | None = None) -> dict[str, Any]:
    configurable = {"thread_id": KEY, "checkpoint_ns": ns}
    if checkpoint_id:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}


def checkpoint(**values: Any) -> Any:
    return {**empty_checkpoint(), "channel_values": values}


async def until(condition: Any, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


async def put(saver: FencedSaver, made: Any, step: int = 1, **where: Any) -> None:
    await saver.aput(config(**where), made, {"source": "loop", "step": step, "parents": {}}, {})


async def test_a_checkpoint_moves_keep_n_and_empties_keep(bench: Bench) -> None:
    session = bench.session(keep=(Keep("x", 1),))
    with session.bound():
        bench.say()
        await put(bench.saver, checkpoint())
    thread = bench.thread()
    # the event, and CheckpointSaved, which goes before its own transaction
    assert (thread["keep_n"], thread["high_n"], thread["keep"]) == (2, 2, [])
    assert thread["base"] == bench.epoch
    assert bench.count("checkpoints") == 1


async def test_nothing_is_written_once_the_epoch_moved(bench: Bench) -> None:
    bench.sql("UPDATE threads SET epoch = epoch + 1")
    session = bench.session()
    with session.bound():
        with pytest.raises(FencedError):
            await put(bench.saver, checkpoint(c=[1]))
        with pytest.raises(FencedError):
            await bench.saver.aput_writes(config(checkpoint_id="x"), [("c", 1)], TASK_A)
        with pytest.raises(FencedError):
            await session.commit_outcome(Outcome(status="completed"))
    assert bench.count("checkpoints") == bench.count("checkpoint_writes") == 0
    assert bench.count("checkpoint_blobs") == 0
    assert bench.thread()["keep_n"] == 0
    assert [type(error) for error in bench.lost] == [FencedError]


async def test_an_earlier_timeline_is_fenced(bench: Bench) -> None:
    bench.sql("SELECT raise_timeline()")
    with bench.session().bound(), pytest.raises(FencedError):
        await put(bench.saver, checkpoint())
    assert bench.count("checkpoints") == 0


async def test_high_n_never_falls(bench: Bench) -> None:
    """Whatever a session knows: the next attempt numbers after all that was ever committed."""
    bench.sql("UPDATE threads SET high_n = 9")
    with bench.session().bound():
        bench.say()
        await put(bench.saver, checkpoint())
    assert bench.thread()["keep_n"] < 9
    assert bench.thread()["high_n"] == 9


async def test_an_epoch_raised_while_the_row_was_locked_is_seen(bench: Bench) -> None:
    with psycopg.connect(bench.dsn) as other, bench.session().bound():
        other.execute("UPDATE threads SET epoch = epoch + 1")
        putting = asyncio.create_task(put(bench.saver, checkpoint()))
        await until(
            lambda: bench.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        )
        other.commit()
        with pytest.raises(FencedError):
            await putting
    assert bench.count("checkpoints") == 0


async def test_acks_are_awaited_and_n_is_read_before(bench: Bench) -> None:
    bench.log.auto = False
    with bench.session().bound():
        bench.say()
        putting = asyncio.create_task(put(bench.saver, checkpoint()))
        await until(lambda: bench.log.waited_for)
        bench.say()  # said during the wait: not covered by this commit
        assert bench.log.waited_for == [2]
        bench.log.ack(1)
        await asyncio.sleep(0)
        assert not putting.done()
        assert bench.count("checkpoints") == 0
        bench.log.ack(3)
        await putting
    assert bench.thread()["keep_n"] == 2


async def test_the_outcome_waits_for_all_that_was_said(bench: Bench) -> None:
    bench.log.auto = False
    bench.say()
    said = bench.log.n
    ending = asyncio.create_task(
        bench.saver.commit_outcome(bench.session(), Outcome(status="completed"))
    )
    await until(lambda: bench.log.waited_for or ending.done())
    assert not ending.done()
    assert bench.sql("SELECT outcome FROM turns")[0]["outcome"] is None
    bench.log.ack(said)
    await ending
    assert bench.sql("SELECT outcome FROM turns")[0]["outcome"] == {"status": "completed"}
    assert (bench.thread()["keep_n"], bench.thread()["high_n"]) == (said, said)


async def test_a_finished_task_is_kept_and_an_interrupted_one_is_not(bench: Bench) -> None:
    session = bench.session()
    parent = checkpoint()
    with session.bound():
        bench.say(TASK_A)
        await bench.saver.aput_writes(config(checkpoint_id=parent["id"]), [("c", 1)], TASK_A)
        await bench.saver.aput_writes(
            config(checkpoint_id=parent["id"]), [("__interrupt__", [])], TASK_B
        )
        await bench.saver.aput_writes(
            config(checkpoint_id=parent["id"]), [("__error__", "boom")], TASK_B
        )
    assert bench.thread()["keep"] == [{"path": TASK_A, "n": 1}]
    assert bench.thread()["keep_n"] == 0


async def test_a_later_attempt_finds_the_tasks_that_finished(bench: Bench) -> None:
    """W4: LangGraph runs no task whose writes it is given, and readers are shown it once."""
    made = checkpoint()
    at = config(checkpoint_id=made["id"])
    with bench.session().bound():
        await put(bench.saver, made)
        await bench.saver.aput_writes(at, [("c", 1)], TASK_A)
        await bench.saver.aput_writes(at, [("__interrupt__", [])], TASK_B)
    later = bench.session()
    with later.bound():
        loaded = await bench.saver.aget_tuple(config())
    assert loaded is not None
    assert (TASK_A, "c", 1) in (loaded.pending_writes or ())
    assert [later.progress.finished(task) for task in (TASK_A, TASK_B)] == [True, False]


async def test_a_nested_checkpoint_keeps_what_is_under_its_task(bench: Bench) -> None:
    ns = f"outer:{TASK_A}"
    session = bench.session()
    inner = checkpoint()
    with session.bound():
        bench.say(f"{TASK_A}|{TASK_B}")
        writing = asyncio.create_task(
            bench.saver.aput_writes(config(ns, inner["id"]), [("c", 1)], TASK_B)
        )
        await writing
        assert bench.thread()["keep"] == [{"path": f"{TASK_A}|{TASK_B}", "n": 1}]
        bench.say(f"{TASK_A}|{TASK_B}")
        await put(bench.saver, checkpoint(), ns=ns, checkpoint_id=inner["id"])
    thread = bench.thread()
    assert thread["keep"] == [{"path": f"{TASK_A}|", "n": 3}]
    assert (thread["keep_n"], thread["high_n"]) == (0, 3)


async def test_a_checkpoint_takes_its_steps_unsent_writes_along(bench: Bench) -> None:
    bench.log.auto = False
    session = bench.session()
    parent = checkpoint()
    with session.bound():
        bench.say()
        where = config(checkpoint_id=parent["id"])
        writing = asyncio.create_task(bench.saver.aput_writes(where, [("c", [1])], TASK_A))
        await until(lambda: bench.log.waited_for)
        putting = asyncio.create_task(put(bench.saver, checkpoint(), checkpoint_id=parent["id"]))
        await until(lambda: len(bench.log.waited_for) == 2)
        bench.log.ack(10)
        await asyncio.gather(writing, putting)
    assert session.hold.statements == 1
    assert bench.count("checkpoint_writes") == bench.count("checkpoints") == 1
    assert bench.thread()["keep"] == []


async def test_writes_never_wait_for_a_checkpoint(bench: Bench) -> None:
    bench.log.auto = False
    with bench.session().bound():
        bench.log.ack(0)
        parent = checkpoint()
        # nothing said yet: these writes need no ack
        putting = asyncio.create_task(put(bench.saver, checkpoint(), checkpoint_id="other"))
        await until(lambda: bench.log.waited_for)
        bench.log._acked = 1  # the writes' position is acknowledged, the checkpoint still waits
        async with asyncio.timeout(60):
            await bench.saver.aput_writes(config("", parent["id"]), [("c", 1)], TASK_A)
        assert bench.count("checkpoint_writes") == 1
        assert not putting.done()
        bench.log.ack(9)
        await putting


async def test_queued_writes_go_out_together(bench: Bench) -> None:
    session = bench.session()
    parent = checkpoint()
    with psycopg.connect(bench.dsn) as other, session.bound():
        other.execute("SELECT 1 FROM threads FOR UPDATE")
        tasks = []
        for number in range(12):
            task = str(uuid.UUID(int=number + 1))
            tasks.append(
                asyncio.create_task(
                    bench.saver.aput_writes(
                        config(checkpoint_id=parent["id"]), [("c", number)], task
                    )
                )
            )
        await until(
            lambda: bench.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        )
        other.commit()
        await asyncio.gather(*tasks)
    assert session.hold.statements <= 2
    assert bench.count("checkpoint_writes") == 12
    assert len(bench.thread()["keep"]) == 12


async def test_the_input_waits_for_the_next_commit(bench: Bench) -> None:
    session = bench.session()
    first, second = checkpoint(), checkpoint()
    with session.bound():
        meta: Any = {"source": "input", "step": -1, "parents": {}}
        await bench.saver.aput(config(), first, meta, {})
        await bench.saver.aput_writes(config(checkpoint_id=first["id"]), [("c", 1)], TASK_A)
        await put(bench.saver, second, step=0, checkpoint_id=first["id"])
        assert session.hold.statements == 0
        await bench.saver.aput_writes(config(checkpoint_id=second["id"]), [("c", 1)], TASK_B)
    assert session.hold.statements == 1
    assert bench.count("checkpoints") == 2
    assert bench.count("checkpoint_writes") == 2


async def test_a_reader_in_the_session_sees_what_is_held_back(bench: Bench) -> None:
    made = checkpoint(c="held")
    with bench.session().bound():
        meta: Any = {"source": "input", "step": -1, "parents": {}}
        await bench.saver.aput(config(), made, meta, {"c": "1"})
        loaded = await bench.saver.aget_tuple(config())
        assert loaded is not None
        assert loaded.checkpoint["channel_values"] == {"c": "held"}


async def test_the_outcome_shares_its_transaction_with_what_is_held_back(bench: Bench) -> None:
    session = bench.session()
    session.follow(LastBy(lambda _: True))
    with session.bound():
        bench.say()
        await put(bench.saver, checkpoint())
        assert bench.count("checkpoints") == 0
        await session.commit_outcome(Outcome(status="completed", text="a\x00b"))
    assert session.hold.statements == 1
    assert bench.count("checkpoints") == 1
    row = bench.sql("SELECT outcome::text AS o FROM turns")[0]
    assert json.loads(row["o"]) == {"status": "completed", "text": "a\x00b"}
    assert (bench.thread()["keep_n"], bench.thread()["high_n"]) == (2, 2)


async def test_an_interrupted_outcome_names_its_questions(bench: Bench) -> None:
    session = bench.session()
    asked = [Interrupt(id="a" * 32, payload="1"), Interrupt(id="b" * 32, payload="2")]
    await session.commit_outcome(Outcome(status="interrupted", interrupts=asked))
    assert bench.thread()["interrupt"] == {
        "turn_id": str(bench.turn_id),
        "ids": ["a" * 32, "b" * 32],
    }


async def test_a_fenced_outcome_writes_nothing(bench: Bench) -> None:
    bench.sql("UPDATE threads SET epoch = epoch + 1")
    with pytest.raises(FencedError):
        await bench.session().commit_outcome(Outcome(status="completed"))
    assert bench.sql("SELECT outcome FROM turns")[0]["outcome"] is None


async def test_the_cancel_flag_comes_with_every_commit(bench: Bench) -> None:
    with bench.session().bound():
        await put(bench.saver, checkpoint())
        assert bench.cancels == []
        bench.sql("UPDATE threads SET cancel = 'user'")
        await put(bench.saver, checkpoint())
    assert bench.cancels == ["user"]


async def test_an_unknown_result_ends_the_attempt(bench: Bench) -> None:
    with psycopg.connect(bench.dsn) as other, bench.session().bound():
        other.execute("SELECT 1 FROM threads FOR UPDATE")
        putting = asyncio.create_task(put(bench.saver, checkpoint()))
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await until(lambda: bench.sql(waiting))
        bench.sql("SELECT pg_terminate_backend(%s)", bench.sql(waiting)[0]["pid"])
        with pytest.raises(DatabaseUnavailableError):
            await putting
        other.commit()
        with pytest.raises(DatabaseUnavailableError):  # also where a statement could work again
            await put(bench.saver, checkpoint())
    assert len(bench.lost) == 1
    assert bench.count("checkpoints") == 0


async def test_a_refused_state_leaves_the_outcome_possible(bench: Bench) -> None:
    session = bench.session()
    with session.bound():
        with pytest.raises(UnstorableStateError):
            await put(bench.saver, checkpoint(), ns="a\x00b:1")
        await session.commit_outcome(Outcome(status="failed", code="state_unstorable"))
    assert bench.sql("SELECT outcome FROM turns")[0]["outcome"]["code"] == "state_unstorable"


async def test_a_cancelled_caller_does_not_cut_a_statement(bench: Bench) -> None:
    session = bench.session()
    with psycopg.connect(bench.dsn) as other, session.bound():
        other.execute("SELECT 1 FROM threads FOR UPDATE")
        putting = asyncio.create_task(put(bench.saver, checkpoint()))
        await until(
            lambda: bench.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        )
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        other.commit()
        await session.commit_outcome(Outcome(status="cancelled"))
    assert session.hold.statements == 2
    assert bench.count("checkpoints") == 1
    assert bench.lost == []


async def test_calls_after_a_stop_are_ignored(bench: Bench) -> None:
    session = bench.session()
    with session.bound():
        session.stop()
        await bench.saver.aput_writes(config(checkpoint_id="x"), [("__error__", "c")], TASK_A)
        await put(bench.saver, checkpoint())
        await session.commit_outcome(Outcome(status="cancelled"))
    assert bench.count("checkpoints") == bench.count("checkpoint_writes") == 0


async def test_values_that_jsonb_refuses_are_stored_all_the_same(bench: Bench) -> None:
    values = {"a": "nul \x00 byte", "b": float("nan"), "c": "fine", "d": 3.5, "e": None}
    made = checkpoint(**values)
    made["channel_versions"] = dict.fromkeys(values, "1")
    with bench.session().bound():
        meta: Any = {"source": "loop", "step": 1, "note": "x\x00\ud800y"}
        await bench.saver.aput(config(), made, meta, made["channel_versions"])
        loaded = await bench.saver.aget_tuple(config())
    assert loaded is not None
    got = loaded.checkpoint["channel_values"]
    assert got["a"] == "nul \x00 byte"
    assert math.isnan(got["b"])
    assert (got["c"], got["d"], got["e"]) == ("fine", 3.5, None)


async def test_another_thread_is_written_unfenced(bench: Bench) -> None:
    bench.sql("UPDATE threads SET epoch = epoch + 1")
    with bench.session().bound():
        other: Any = {"configurable": {"thread_id": "default/other", "checkpoint_ns": ""}}
        await bench.saver.aput(other, checkpoint(), {"source": "loop", "step": 1}, {})
    assert bench.count("checkpoints") == 1


def test_langgraph_finds_the_signature_that_is_kept_and_not_another() -> None:
    kept = inspect.signature(FencedSaver.aput_writes)
    assert kept is FencedSaver.aput_writes.__signature__  # type: ignore[attr-defined]
    assert list(kept.parameters) == ["self", "config", "writes", "task_id", "task_path"]


class State(TypedDict):
    said: list[str]


async def test_a_one_node_run_is_one_load_and_one_commit(bench: Bench) -> None:
    from turnstream.graph.langgraph.last_checkpoint import ends_after

    async def node(state: State) -> State:
        return {"said": [*state["said"], "done"]}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    graph = builder.compile(checkpointer=bench.saver)
    session = bench.session()
    session.follow(LastBy(ends_after(graph)))
    call: Any = {"configurable": {"thread_id": KEY}}
    with session.bound():
        async for _ in graph.astream({"said": ["hi"]}, call, stream_mode=[], durability="sync"):
            pass
        assert session.hold.statements == 0
        await session.commit_outcome(Outcome(status="completed"))
    assert session.hold.statements == 1
    state = await graph.aget_state(call)
    assert state.values == {"said": ["hi", "done"]}
    assert state.next == ()
    assert bench.count("checkpoints") == 3


async def test_fenced_in_mid_run_cancels_what_would_go_on(bench: Bench) -> None:
    ran = []

    async def step(state: State) -> State:
        ran.append(len(ran))
        if len(ran) == 2:
            bench.sql("UPDATE threads SET epoch = epoch + 1")
        return {"said": [*state["said"], "x"]}

    builder = StateGraph(State)
    for number in range(5):
        builder.add_node(f"n{number}", step)
        builder.add_edge(f"n{number - 1}" if number else START, f"n{number}")
    graph = builder.compile(checkpointer=bench.saver)
    call: Any = {"configurable": {"thread_id": KEY}}
    with bench.session().bound(), pytest.raises(FencedError):
        async for _ in graph.astream({"said": []}, call, stream_mode=[], durability="sync"):
            pass
    assert len(ran) <= 3
    assert bench.lost
