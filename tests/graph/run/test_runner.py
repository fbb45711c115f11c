"""Attempts at turns on real Postgres: what runs again after a crash, what is said, what is kept."""

from __future__ import annotations

import asyncio
import operator
import re
import signal
import sys
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import psycopg
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt
from psycopg.rows import dict_row

from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.postgres.checkpoints.commit_pool import commit_pool
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
from turnstream.connectors.postgres.pools import saver_pool
from turnstream.graph.langgraph.catalog import GraphEntry
from turnstream.graph.run.control import TurnControl
from turnstream.graph.run.ending import RunOutcome
from turnstream.graph.run.input import STRICT_RESUME, TurnInput
from turnstream.graph.run.runner import run_turn
from turnstream.schemas.errors import FencedError
from turnstream.schemas.fold.fold import ThreadFold
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import (
    AttemptStarted,
    CustomEmitted,
    InputRequested,
    Keep,
    MessageFinished,
    StepFinished,
    StepStarted,
    TaskRetried,
    TokensEmitted,
    ToolStarted,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.connectors.postgres.checkpoints.commits import Session

KEY = "default/t"


class Thread:
    """One thread, its log as a list, and workers that claim it one after the other."""

    def __init__(self, dsn: str, saver: FencedSaver, first_epoch: int) -> None:
        self.dsn = dsn
        self.saver = saver
        self.epoch = first_epoch
        self.records: list[Any] = []
        self.log = MemoryEmitter()
        self.sql(
            "INSERT INTO threads (thread_key, partition, epoch) VALUES (%s, 0, %s)"
            " ON CONFLICT DO NOTHING",
            KEY,
            first_epoch,
        )

    def sql(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def new_turn(self) -> str:
        turn_id = str(uuid.uuid4())
        self.sql(
            "INSERT INTO turns (tenant, turn_id, thread_key, kind, graph, origin, actor, policy,"
            " src_topic, src_part, src_off, body_sha, body) VALUES"
            " ('default', %s, %s, 'start', 'g', %s, '', 'enqueue', 'turns', 0, 0, '', '')",
            turn_id,
            KEY,
            turn_id,
        )
        self.sql("UPDATE threads SET keep_n = 0, high_n = 0, keep = '[]', base = 0")
        return turn_id

    def attempt(self, turn_id: str, **rest: Any) -> Session:
        """Claim the thread: a new epoch, and what the ledger knows of the turn."""
        self.epoch += 1
        row = self.sql(
            "UPDATE threads SET epoch = %s RETURNING keep_n, high_n, keep, base", self.epoch
        )[0]
        self.log = MemoryEmitter(
            thread_id="t", turn_id=turn_id, epoch=self.epoch, high_n=row["high_n"] - 1
        )
        keep = [Keep(**entry) for entry in row["keep"]]
        self.log.emit(
            AttemptStarted,
            path="",
            reason="first",
            base=row["base"],
            keep_n=row["keep_n"],
            high_n=row["high_n"],
            keep=keep,
        )
        self.records.append(self.log.events)
        return self.saver.session(
            thread_key=KEY,
            turn_id=uuid.UUID(turn_id),
            epoch=self.epoch,
            log=self.log,
            keep=tuple(keep),
            keep_n=row["keep_n"],
            high_n=row["high_n"],
            **rest,
        )

    async def run(
        self, entry: GraphEntry, turn: TurnInput, control: TurnControl | None = None
    ) -> RunOutcome:
        session = self.attempt(turn.turn_id)
        with session.bound():
            ended = await run_turn(
                entry, turn, self.log, self.saver, control or TurnControl(), commits=session
            )
            if ended.outcome is not None:
                await self.saver.commit_outcome(session, ended.outcome, ended.closing)
        return ended

    def view(self, turn_id: str) -> Any:
        fold = ThreadFold()
        for events in self.records:
            for event in events:
                fold.apply(event)
        return fold.turns[turn_id]

    def said(self, kind: type[Any]) -> list[Any]:
        return [event for events in self.records for event in events if isinstance(event, kind)]


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Thread]:
    async with (
        saver_pool(dsn, size_max=4) as pool,
        commit_pool(dsn, size_max=4) as commits,
    ):
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT (timeline() << 40)").fetchone()
        assert row is not None
        yield Thread(dsn, FencedSaver(pool, commits), row[0])


@pytest.fixture
async def thread(ledger_dsn: str) -> AsyncIterator[Thread]:
    async with opened(ledger_dsn) as made:
        yield made


def entry(builder: Any, **rest: Any) -> GraphEntry:
    return GraphEntry(name="g", graph=builder.compile(), **rest)


def chain(state: Any, **nodes: Any) -> Any:
    builder = StateGraph(state)
    before = START
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(before, name)
        before = name
    builder.add_edge(before, END)
    return builder


def start(turn_id: str, text: str = "hi", **rest: Any) -> TurnInput:
    return TurnInput(turn_id=turn_id, thread_key=KEY, text=text, **rest)


def model(*answers: str) -> Any:
    return GenericFakeChatModel(messages=iter([AIMessage(answer) for answer in answers]))


def answers_with(llm: Any) -> Any:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    return node


async def until(condition: Any, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_graph_streams_its_model_unmodified(thread: Thread) -> None:
    graph = entry(chain(MessagesState, answer=answers_with(model("one two three"))))
    turn_id = thread.new_turn()
    ended = await thread.run(graph, start(turn_id))
    assert ended.outcome is not None
    assert (ended.outcome.status, ended.outcome.text) == ("completed", "one two three")
    assert len(thread.said(TokensEmitted)) == 5  # words and spaces, as the model streams them
    (message,) = transcript(thread.view(turn_id)).messages
    assert (message.text, message.intact) == ("one two three", True)
    assert message.message_id == ended.outcome.message_id
    assert [step.node for step in thread.said(StepStarted)] == ["answer"]
    assert [step.step for step in thread.said(StepStarted)] == [1]
    (step,) = thread.said(StepFinished)
    assert (step.node, step.error) == ("answer", "")
    assert message.path == step.path == step.task_id


async def test_a_second_turn_sees_the_first(thread: Thread) -> None:
    graph = entry(chain(MessagesState, answer=answers_with(model("a", "b"))))
    await thread.run(graph, start(thread.new_turn(), "first"))
    second = thread.new_turn()
    await thread.run(graph, start(second, "second"))
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert [m.content for m in state.values["messages"]] == ["first", "a", "second", "b"]
    assert state.values["messages"][2].id == second


async def test_cancel_keeps_what_was_said(thread: Thread) -> None:
    heard = asyncio.Event()
    control = TurnControl()

    class Slow(GenericFakeChatModel):
        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async for chunk in super()._astream(*args, **kwargs):
                yield chunk
                if "two" in str(chunk.message.content):
                    heard.set()
                    await asyncio.Event().wait()

    slow = Slow(messages=iter([AIMessage("one two three four")]))
    graph = entry(chain(MessagesState, answer=answers_with(slow)))
    turn_id = thread.new_turn()
    running = asyncio.create_task(thread.run(graph, start(turn_id), control))
    await heard.wait()
    await until(lambda: len(thread.said(TokensEmitted)) == 3)
    control.cancel("user")
    ended = await running
    assert ended.outcome is not None
    assert (ended.outcome.status, ended.outcome.code) == ("cancelled", "user")
    assert ended.outcome.text == "one two"
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert [m.content for m in state.values["messages"]] == ["hi", "one two"]
    assert state.values["messages"][-1].id == ended.outcome.message_id
    assert state.next == ()
    after = entry(chain(MessagesState, answer=answers_with(model("fine"))))
    done = await thread.run(after, start(thread.new_turn(), "again"))
    assert done.outcome is not None
    assert done.outcome.text == "fine"


async def test_cancel_before_anything_keeps_the_question(thread: Thread) -> None:
    graph = entry(chain(MessagesState, answer=answers_with(model("never"))))
    control = TurnControl()
    control.cancel("early")
    ended = await thread.run(graph, start(thread.new_turn(), "my question"), control)
    assert ended.outcome is not None
    assert ended.outcome.status == "cancelled"
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert [m.content for m in state.values["messages"]] == ["my question"]
    assert state.next == ()


async def test_a_node_that_ignores_the_cancel_is_cancelled_all_the_same(thread: Thread) -> None:
    inside = asyncio.Event()
    control = TurnControl()

    async def stubborn(state: MessagesState) -> dict[str, Any]:
        inside.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"messages": [AIMessage("too late", id="late")]}
        return {}

    graph = entry(chain(MessagesState, stubborn=stubborn))
    turn_id = thread.new_turn()
    running = asyncio.create_task(thread.run(graph, start(turn_id), control))
    await inside.wait()
    control.cancel("user")
    ended = await running
    assert ended.outcome is not None
    assert ended.outcome.status == "cancelled"
    assert thread.said(MessageFinished) == []
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert [m.content for m in state.values["messages"]] == ["hi"]
    assert state.next == ()


async def test_cancel_in_a_tool_answers_the_open_call(thread: Thread) -> None:
    inside = asyncio.Event()
    control = TurnControl()
    call = {"name": "look", "args": {"q": 1}, "id": "call-1", "type": "tool_call"}

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("let me look", tool_calls=[call], id="m-1")]}

    async def look(state: MessagesState) -> dict[str, Any]:
        inside.set()
        await asyncio.Event().wait()
        return {}

    graph = entry(chain(MessagesState, ask=ask, look=look))
    running = asyncio.create_task(thread.run(graph, start(thread.new_turn()), control))
    await inside.wait()
    control.cancel("user")
    await running
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    kinds = [(m.type, getattr(m, "tool_call_id", "")) for m in state.values["messages"]]
    assert kinds == [("human", ""), ("ai", ""), ("tool", "call-1")]
    assert state.values["messages"][-1].status == "error"
    assert state.next == ()


async def test_a_failing_node_is_a_named_outcome(thread: Thread) -> None:
    async def breaks(state: MessagesState) -> dict[str, Any]:
        raise ValueError("no such \ud800 thing")

    graph = entry(chain(MessagesState, breaks=breaks))
    ended = await thread.run(graph, start(thread.new_turn()))
    assert ended.outcome is not None
    assert (ended.outcome.status, ended.outcome.code) == ("failed", "graph_error")
    assert re.fullmatch(r"ValueError \(error id [0-9a-f]{8}\)", ended.outcome.message)
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert state.next == ("breaks",)


async def test_a_graph_that_never_ends_is_stopped(thread: Thread) -> None:
    async def again(state: MessagesState) -> Command[Any]:
        return Command(goto="again")

    builder = StateGraph(MessagesState)
    builder.add_node("again", again, destinations=("again",))
    builder.add_edge(START, "again")
    turn = start(thread.new_turn(), config={"recursion_limit": 5})
    ended = await thread.run(entry(builder), turn)
    assert ended.outcome is not None
    assert (ended.outcome.status, ended.outcome.code) == ("failed", "step_limit")


async def test_a_graph_without_saver_inside_a_node_is_named(thread: Thread) -> None:
    async def inner(state: MessagesState) -> dict[str, Any]:
        return {}

    sub = chain(MessagesState, inner=inner).compile(checkpointer=False)

    async def calls(state: MessagesState) -> dict[str, Any]:
        return await sub.ainvoke(state)

    ended = await thread.run(entry(chain(MessagesState, calls=calls)), start(thread.new_turn()))
    assert ended.outcome is not None
    assert (ended.outcome.status, ended.outcome.code) == ("failed", "graph_unsupported")


async def test_nul_and_lone_surrogates_are_replaced(thread: Thread) -> None:
    graph = entry(chain(MessagesState, answer=answers_with(model("ok"))))
    turn = start(
        thread.new_turn(),
        "a\x00b\ud800c",
        metadata={"k\x00": "v\ud800"},
        config={"configurable": {"x": "\x00"}},
    )
    ended = await thread.run(graph, turn)
    assert ended.outcome is not None
    assert ended.outcome.status == "completed"
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert state.values["messages"][0].content == "a\ufffdb\ufffdc"


class Count(TypedDict):
    log: Annotated[list[str], operator.add]


async def test_drain_ends_at_a_step_and_goes_on(thread: Thread) -> None:
    ran: list[str] = []
    control = TurnControl()

    def node(name: str) -> Any:
        async def run(state: Count) -> Count:
            ran.append(name)
            if name == "a" and len(ran) == 1:
                control.drain()
            return {"log": [name]}

        return run

    graph = entry(chain(Count, a=node("a"), b=node("b")))
    turn_id = thread.new_turn()
    first = await thread.run(graph, start(turn_id, input={"log": []}), control)
    assert first.outcome is None
    second = await thread.run(graph, start(turn_id, input={"log": []}, again=True))
    assert second.outcome is not None
    assert second.outcome.status == "completed"
    assert ran == ["a", "b"]
    assert [s.node for s in thread.said(StepStarted)] == ["a", "b"]
    assert [s.node for s in thread.view(turn_id).items if isinstance(s, StepStarted)] == ["a", "b"]


async def test_interrupt_and_resume_by_id(thread: Thread) -> None:
    async def ask(state: Count) -> Count:
        answer = interrupt({"question": "why?"})
        return {"log": [answer]}

    graph = entry(chain(Count, ask=ask))
    ended = await thread.run(graph, start(thread.new_turn(), input={"log": []}))
    assert ended.outcome is not None
    assert ended.outcome.status == "interrupted"
    (asked,) = ended.outcome.interrupts
    assert asked.payload == '{"question":"why?"}'
    (said,) = thread.said(InputRequested)
    assert said.interrupt_id == asked.id
    row = thread.sql("SELECT interrupt FROM threads")[0]["interrupt"]
    assert row["ids"] == [asked.id]

    resume = TurnInput(
        turn_id=thread.new_turn(), thread_key=KEY, kind="resume", answers={asked.id: "because"}
    )
    done = await thread.run(graph, resume)
    assert done.outcome is not None
    assert done.outcome.status == "completed"
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert state.values == {"log": ["because"]}


async def test_a_foreign_answer_changes_nothing(thread: Thread) -> None:
    ran: list[int] = []

    async def ask(state: Count) -> Count:
        ran.append(1)
        return {"log": [interrupt("why?")]}

    graph = entry(chain(Count, ask=ask))
    await thread.run(graph, start(thread.new_turn(), input={"log": []}))
    before = thread.sql("SELECT count(*) AS n FROM checkpoints")
    resume = TurnInput(
        turn_id=thread.new_turn(), thread_key=KEY, kind="resume", answers={"f" * 32: "x"}
    )
    ended = await thread.run(graph, resume)
    assert ended.outcome is not None
    assert (ended.outcome.status, ended.outcome.code) == ("rejected", "unknown_interrupt")
    assert ran == [1]
    assert thread.sql("SELECT count(*) AS n FROM checkpoints") == before
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert len(state.interrupts) == 1


async def test_langgraph_still_knows_the_strict_key(thread: Thread) -> None:
    from langgraph.errors import UnknownInterruptError

    async def ask(state: Count) -> Count:
        return {"log": [interrupt("why?")]}

    graph = entry(chain(Count, ask=ask)).with_saver(thread.saver)
    config: Any = {"configurable": {"thread_id": "default/strict"}}
    await graph.ainvoke({"log": []}, config)
    strict: Any = {"configurable": {**config["configurable"], STRICT_RESUME: True}}
    with pytest.raises(UnknownInterruptError):
        await graph.ainvoke(Command(resume={"0" * 32: 1}), strict)


async def test_a_resume_run_again_gives_only_open_answers(thread: Thread) -> None:
    ran: list[str] = []
    stuck = asyncio.Event()

    def asks(name: str) -> Any:
        async def node(state: Count) -> Count:
            answer = interrupt(name)
            ran.append(name)
            if name == "b" and ran.count("b") == 1:
                stuck.set()
                await asyncio.Event().wait()
            return {"log": [f"{name}={answer}"]}

        return node

    builder = StateGraph(Count)
    for name in "ab":
        builder.add_node(name, asks(name))
        builder.add_edge(START, name)
        builder.add_edge(name, END)
    graph = entry(builder)
    first = await thread.run(graph, start(thread.new_turn(), input={"log": []}))
    assert first.outcome is not None
    answers = {asked.id: asked.payload.strip('"') for asked in first.outcome.interrupts}
    assert len(answers) == 2
    turn_id = thread.new_turn()
    resume = TurnInput(turn_id=turn_id, thread_key=KEY, kind="resume", answers=answers)
    running = asyncio.create_task(thread.run(graph, resume))
    await stuck.wait()
    await until(lambda: thread.sql("SELECT keep FROM threads")[0]["keep"])
    running.cancel()  # the worker is gone; nothing more is written under its epoch
    with pytest.raises(asyncio.CancelledError):
        await running
    again = TurnInput(turn_id=turn_id, thread_key=KEY, kind="resume", answers=answers, again=True)
    done = await thread.run(graph, again)
    assert done.outcome is not None
    assert done.outcome.status == "completed"
    assert sorted(ran) == ["a", "b", "b"]
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert sorted(state.values["log"]) == ["a=a", "b=b"]


async def test_a_retry_takes_back_what_was_said(thread: Thread) -> None:
    tries: list[int] = []

    async def flaky(state: Count) -> Count:
        tries.append(1)
        get_stream_writer()({"name": "try", "number": len(tries)})
        if len(tries) == 1:
            raise ConnectionError("reset")
        return {"log": ["done"]}

    builder = StateGraph(Count)
    policy = RetryPolicy(initial_interval=0.0, jitter=False, retry_on=ConnectionError)
    builder.add_node("flaky", flaky, retry_policy=policy)
    builder.add_edge(START, "flaky")
    turn_id = thread.new_turn()
    ended = await thread.run(entry(builder), start(turn_id, input={"log": []}))
    assert ended.outcome is not None
    assert ended.outcome.status == "completed"
    (retried,) = thread.said(TaskRetried)
    assert (retried.attempt, retried.error) == (2, "ConnectionError")
    shown = [e.payload for e in thread.view(turn_id).items if isinstance(e, CustomEmitted)]
    assert shown == ['{"name":"try","number":2}']
    steps = [e.node for e in thread.view(turn_id).items if isinstance(e, StepStarted)]
    assert steps == ["flaky"]


async def test_fenced_is_raised_and_not_an_outcome(thread: Thread) -> None:
    async def loses(state: Count) -> Count:
        thread.sql("UPDATE threads SET epoch = epoch + 1")
        return {"log": ["x"]}

    async def never(state: Count) -> Count:
        return {"log": ["y"]}

    with pytest.raises(FencedError):
        await thread.run(
            entry(chain(Count, loses=loses, never=never)),
            start(thread.new_turn(), input={"log": []}),
        )


CRASH = """
import asyncio, operator, os, pathlib, sys
from typing import Annotated, TypedDict
sys.path.insert(0, sys.argv[4])
import runner_cases as cases

async def main():
    async with cases.opened(sys.argv[1]) as thread:
        thread.epoch = int(sys.argv[2])
        graph = cases.CASES[sys.argv[3]](pathlib.Path(sys.argv[5]), crash=True)
        turn = cases.start(sys.argv[6], input={"log": []})
        await thread.run(graph, turn)
asyncio.run(main())
"""


def spoken(name: str, marks: Path, *, stuck: bool = False) -> Any:
    """A node that says its name and leaves a mark."""

    async def node(state: Count) -> Count:
        get_stream_writer()({"name": "said", "by": name})
        with (marks / name).open("a") as file:
            file.write("ran\n")
        if stuck:
            await asyncio.Event().wait()  # killed here
        return {"log": [name]}

    return node


def parallel(marks: Path, *, crash: bool) -> GraphEntry:
    builder = StateGraph(Count)
    builder.add_node("quick", spoken("quick", marks))
    builder.add_node("slow", spoken("slow", marks, stuck=crash))
    builder.add_node("last", spoken("last", marks))
    builder.add_edge(START, "quick")
    builder.add_edge(START, "slow")
    builder.add_edge(["quick", "slow"], "last")
    return entry(builder)


def nested(marks: Path, *, crash: bool) -> GraphEntry:
    inner = chain(
        Count,
        one=spoken("one", marks),
        two=spoken("two", marks, stuck=crash),
    ).compile()
    return entry(chain(Count, outer=inner, last=spoken("last", marks)))


CASES = {"parallel": parallel, "nested": nested}


@pytest.mark.parametrize(
    ("case", "finished", "stuck", "kept"),
    [("parallel", "quick", "slow", ""), ("nested", "one", "two", "|")],
)
async def test_a_killed_process_loses_no_finished_task(
    thread: Thread, tmp_path: Path, case: str, finished: str, stuck: str, kept: str
) -> None:
    turn_id = thread.new_turn()
    marks = tmp_path / "marks"
    marks.mkdir()
    script = tmp_path / "crash.py"
    script.write_text(CRASH)
    (tmp_path / "runner_cases.py").write_text(Path(__file__).read_text())
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        thread.dsn,
        str(thread.epoch),
        case,
        str(tmp_path),
        str(marks),
        turn_id,
    )
    try:
        await until((marks / stuck).exists)
        await until(
            lambda: (
                (keep := thread.sql("SELECT keep FROM threads")[0]["keep"])
                and keep[-1]["path"].endswith(kept)
            )
        )
    finally:
        child.send_signal(signal.SIGKILL)
        await child.wait()
    assert child.returncode == -signal.SIGKILL
    row = thread.sql("SELECT keep, keep_n, high_n, base FROM threads")[0]
    assert (row["keep_n"] > 0, len(row["keep"])) == (row["keep_n"] > 0, 1)
    assert row["keep"][0]["path"].endswith(kept)

    thread.epoch += 1  # the killed process had this one
    ended = await thread.run(
        CASES[case](marks, crash=False), start(turn_id, input={"log": []}, again=True)
    )
    assert ended.outcome is not None
    assert ended.outcome.status == "completed"
    assert (marks / finished).read_text() == "ran\n"
    runs = {mark.name: mark.read_text().count("ran") for mark in marks.iterdir()}
    assert sorted(runs.values()) == [1, 1, 2]
    state = (
        await CASES[case](marks, crash=False)
        .with_saver(thread.saver)
        .aget_state({"configurable": {"thread_id": KEY}})
    )
    assert len(state.values["log"]) == 3
    started = [event.node for event in thread.said(StepStarted)]
    assert finished not in started


async def test_a_rewind_leaves_what_finished_and_only_that(thread: Thread, tmp_path: Path) -> None:
    turn_id = thread.new_turn()
    turn = start(turn_id, input={"log": []})
    running = asyncio.create_task(thread.run(parallel(tmp_path, crash=True), turn))
    await until(lambda: thread.sql("SELECT keep FROM threads")[0]["keep"])
    await until(lambda: len(thread.said(CustomEmitted)) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    ended = await thread.run(parallel(tmp_path, crash=False), start(turn_id, input={"log": []}))
    assert ended.outcome is not None
    assert ended.outcome.status == "completed"
    view = thread.view(turn_id)
    assert view.attempts == 2
    assert not view.gaps
    shown = [event for event in view.items if isinstance(event, CustomEmitted)]
    by = [event.payload.split('"by":"')[1].rstrip('"}') for event in shown]
    assert sorted(by) == ["last", "quick", "slow"]
    first = {event.payload: event.epoch for event in shown}
    assert len(set(first.values())) == 2  # "quick" is still the first attempt's


async def test_sends_and_whole_messages(thread: Thread) -> None:
    class Many(MessagesState):
        number: int

    async def fan(state: Many) -> dict[str, Any]:
        return {}

    async def work(state: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [AIMessage(f"part {state['number']}", id=f"m{state['number']}")]}

    builder = StateGraph(Many)
    builder.add_node("fan", fan)
    builder.add_node("work", work)
    builder.add_edge(START, "fan")
    builder.add_conditional_edges("fan", lambda _: [Send("work", {"number": n}) for n in range(3)])
    turn_id = thread.new_turn()
    await thread.run(entry(builder), start(turn_id))
    shown = transcript(thread.view(turn_id)).messages
    assert sorted(message.text for message in shown) == ["part 0", "part 1", "part 2"]
    assert len({message.path for message in shown}) == 3
    assert all(message.intact for message in shown)
    finished = {event.message_id: event.path for event in thread.said(MessageFinished)}
    assert set(finished) == {"m0", "m1", "m2"}


async def test_tools_of_a_tool_node_are_heard(thread: Thread) -> None:
    from langchain_core.tools import tool
    from langgraph.prebuilt import ToolNode

    @tool
    async def later(q: int) -> str:
        """Wait."""
        return f"later {q}"

    @tool
    def now(q: int) -> str:
        """Run in a thread."""
        if q > 1:
            raise ValueError("too much")
        return f"now {q}"

    async def ask(state: MessagesState) -> dict[str, Any]:
        calls = [
            {"name": name, "args": {"q": q}, "id": f"{name}-{q}", "type": "tool_call"}
            for name, q in (("later", 1), ("now", 1), ("now", 2))
        ]
        return {"messages": [AIMessage("", tool_calls=calls, id="m")]}

    tools = ToolNode([later, now], handle_tool_errors=True)
    turn_id = thread.new_turn()
    await thread.run(entry(chain(MessagesState, ask=ask, tools=tools)), start(turn_id))
    shown = {t.tool_call_id: t for t in transcript(thread.view(turn_id)).tools}
    assert shown["later-1"].output == "later 1"
    assert shown["now-1"].output == "now 1"
    assert shown["now-2"].code == "tool_error"
    assert shown["now-2"].output == "ValueError"
    step = next(s for s in thread.said(StepStarted) if s.node == "tools")
    assert {event.path for event in thread.said(ToolStarted)} == {step.path}
    assert [m.role for m in transcript(thread.view(turn_id)).messages] == ["assistant"]


async def test_a_native_graph_is_given_its_context(thread: Thread) -> None:
    from langgraph.runtime import Runtime

    async def node(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        said = runtime.context
        path = runtime.execution_info.task_id
        from turnstream.schemas.records.events import MessageStarted

        said.emit(MessageStarted, path=path, message_id="m")
        said.tokens(path=path, message_id="m", block=0, kind="text", text="direct")
        said.emit(MessageFinished, path=path, message_id="m")
        return {"messages": [AIMessage("direct", id="m")]}

    graph = entry(
        chain(MessagesState, node=node), native=True, make_context=lambda emitter, *_: emitter
    )
    ended = await thread.run(graph, start(thread.new_turn()))
    assert ended.outcome is not None
    assert (ended.outcome.text, ended.outcome.message_id) == ("direct", "m")
    assert thread.said(StepStarted) == []
