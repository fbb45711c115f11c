"""Turns that take too long, run again or are parked: what they end with, and what is handed on."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy

from tests.graph.run.test_runner import KEY, Thread, chain, entry, opened, start, until
from turnstream.graph.run.control import TurnControl
from turnstream.graph.run.deadlines import TurnLimits
from turnstream.graph.run.ending import RunOutcome
from turnstream.graph.run.runner import end_turn, run_turn
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import (
    CustomEmitted,
    MessageFinished,
    MessageStarted,
    StepStarted,
    TaskRetried,
    Usage,
)
from turnstream.schemas.records.results import Carried, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.graph.langgraph.catalog import GraphEntry
    from turnstream.graph.run.input import TurnInput


@pytest.fixture
async def thread(ledger_dsn: str) -> AsyncIterator[Thread]:
    async with opened(ledger_dsn) as made:
        yield made


async def run(
    thread: Thread, graph: GraphEntry, turn: TurnInput, **limits: float
) -> tuple[RunOutcome, TurnControl]:
    control = TurnControl()
    session = thread.attempt(turn.turn_id)
    with session.bound():
        ended = await run_turn(
            graph,
            turn,
            thread.log,
            thread.saver,
            control,
            commits=session,
            limits=TurnLimits(**limits),
        )
        if ended.outcome is not None:
            await thread.saver.commit_outcome(session, ended.outcome, ended.closing)
    return ended, control


def used(tokens: int) -> Usage:
    return Usage(model="m", input_tokens=1, output_tokens=tokens)


def says(name: str, *, halts: bool = False, tokens: int = 0) -> Any:
    """Return a native node that says its name; `halts`: and then never ends."""

    async def node(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        said = runtime.context
        info = runtime.execution_info
        assert info is not None
        path, message_id = info.task_id, str(uuid.uuid5(uuid.NAMESPACE_OID, name))
        said.emit(MessageStarted, path=path, message_id=message_id)
        said.tokens(path=path, message_id=message_id, block=0, kind="text", text=name)
        usage = used(tokens) if tokens else None
        if not halts or tokens:
            said.emit(MessageFinished, path=path, message_id=message_id, usage=usage)
        if halts:
            await asyncio.Event().wait()
        return {"messages": [AIMessage(name, id=message_id)]}

    return node


def native(builder: Any) -> GraphEntry:
    return entry(builder, native=True, make_context=lambda emitter, *_: emitter)


async def crash(thread: Thread, graph: GraphEntry, turn: TurnInput, when: Any) -> Carried:
    """Run an attempt that ends without a word once `when` holds; return what it handed on."""
    running = asyncio.create_task(run(thread, graph, turn))
    await until(when)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    (row,) = thread.sql("SELECT carried::text FROM threads")
    return msgspec.json.decode(row["carried"] or "{}", type=Carried)


async def test_a_turn_that_takes_too_long_fails_and_keeps_its_words(thread: Thread) -> None:
    turn = start(thread.new_turn())
    graph = native(chain(MessagesState, first=says("one"), second=says("two", halts=True)))
    ended, _ = await run(thread, graph, turn, turn_left_s=2.0, turn_timeout_s=60)
    assert ended.outcome is not None
    assert (ended.outcome.status, ended.outcome.code) == ("failed", "turn_timeout")
    assert (ended.outcome.text, ended.outcome.retryable) == ("two", False)
    assert ended.outcome.message == "the turn took longer than 60 s"
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert [message.content for message in state.values["messages"]] == ["hi", "one", "two"]
    assert state.next == ()


async def test_a_turn_whose_time_is_over_does_not_begin(thread: Thread) -> None:
    graph = native(chain(MessagesState, first=says("one", halts=True)))
    ended, _ = await run(thread, graph, start(thread.new_turn()), turn_left_s=-1)
    assert ended.outcome is not None
    assert ended.outcome.code == "turn_timeout"


async def test_the_time_of_a_step_begins_with_it(thread: Thread) -> None:
    async def slow(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        await asyncio.sleep(0.25)
        return {}

    steps = {f"slow{i}": slow for i in range(14)}
    graph = native(chain(MessagesState, **steps, last=says("last", halts=True)))
    turn = start(thread.new_turn())
    began = asyncio.get_running_loop().time()
    ended, _ = await run(thread, graph, turn, step_timeout_s=3.0)
    took = asyncio.get_running_loop().time() - began
    assert took > 14 * 0.25 + 3.0, "the first steps together take longer than one may"
    assert ended.outcome is not None
    assert (ended.outcome.code, ended.outcome.retryable) == ("step_timeout", True)
    assert ended.outcome.text == "last"


async def test_code_in_threads_does_not_hold_the_end_up(thread: Thread) -> None:
    import threading

    gate = threading.Event()

    def blocks(state: MessagesState) -> dict[str, Any]:
        gate.wait(60)
        return {}

    try:
        ended, _ = await run(
            thread, entry(chain(MessagesState, a=blocks)), start(thread.new_turn()),
            turn_left_s=0.2,
        )  # fmt: skip
    finally:
        gate.set()
    assert ended.outcome is not None
    assert ended.outcome.code == "turn_timeout"


async def test_a_cancel_after_a_take_over_keeps_what_was_committed(thread: Thread) -> None:
    turn = start(thread.new_turn())
    graph = native(
        chain(
            MessagesState,
            first=says("one", tokens=10),
            second=says("two", halts=True, tokens=5),
        )
    )
    carried = await crash(
        thread, graph, turn,
        lambda: len([e for e in thread.log.events if isinstance(e, MessageFinished)]) == 2,
    )  # fmt: skip
    one = str(uuid.uuid5(uuid.NAMESPACE_OID, "one"))
    assert carried == Carried(usage=[used(10)], message_id=one)

    silent = native(chain(MessagesState, first=says("one"), second=never))
    control = TurnControl()
    session = thread.attempt(turn.turn_id)
    again = msgspec_replace(turn, again=True, carried=carried)
    with session.bound():
        running = asyncio.create_task(
            run_turn(silent, again, thread.log, thread.saver, control, commits=session)
        )
        await until(lambda: began)
        control.cancel("user")
        ended = await running
        assert ended.outcome is not None
        await thread.saver.commit_outcome(session, ended.outcome, ended.closing)
    assert ended.outcome.status == "cancelled"
    assert (ended.outcome.text, ended.outcome.message_id) == ("one", one)
    assert ended.outcome.usage == [used(10)]
    (shown,) = transcript(thread.view(turn.turn_id)).messages
    assert shown.text == ended.outcome.text


began: list[int] = []


async def never(state: MessagesState) -> dict[str, Any]:
    began.append(1)
    await asyncio.Event().wait()
    return {}


def msgspec_replace(turn: TurnInput, **changes: Any) -> TurnInput:
    import dataclasses

    return dataclasses.replace(turn, **changes)


async def test_usage_of_parallel_tasks_is_told_apart_by_what_stays(thread: Thread) -> None:
    """`slow` says a whole answer and is lost; `quick` finishes after it and stays."""
    told = asyncio.Event()

    async def quick(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        await told.wait()
        return await says("quick", tokens=3)(state, runtime)

    async def slow(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        asyncio.get_running_loop().call_later(0.05, told.set)
        return await says("slow", halts=True, tokens=7)(state, runtime)

    builder = StateGraph(MessagesState)
    builder.add_node("quick", quick)
    builder.add_node("slow", slow)
    builder.add_edge(START, "quick")
    builder.add_edge(START, "slow")
    turn = start(thread.new_turn())
    carried = await crash(
        thread, native(builder), turn,
        lambda: thread.sql("SELECT 1 FROM threads WHERE strpos(keep::text, 'path') > 0"),
    )  # fmt: skip
    assert (carried.usage, carried.lost_usage) == ([used(3)], [used(7)])
    # the next attempt adds its own
    builder = StateGraph(MessagesState)
    builder.add_node("quick", says("quick", tokens=100))
    builder.add_node("slow", says("slow", tokens=20))
    builder.add_edge(START, "quick")
    builder.add_edge(START, "slow")
    again = msgspec_replace(turn, again=True, carried=carried)
    ended, _ = await run(thread, native(builder), again)
    assert ended.outcome is not None
    assert ended.outcome.usage == [Usage(model="m", input_tokens=2, output_tokens=23)]
    assert ended.outcome.lost_usage == [used(7)]


async def test_a_parked_turn_is_ended_without_being_run(thread: Thread) -> None:
    turn = start(thread.new_turn())
    graph = native(chain(MessagesState, first=says("one"), second=says("two", halts=True)))
    carried = await crash(
        thread, graph, turn,
        lambda: len([e for e in thread.log.events if isinstance(e, MessageStarted)]) == 2,
    )  # fmt: skip
    session = thread.attempt(turn.turn_id)
    again = msgspec_replace(turn, again=True, carried=carried)
    poisoned = Outcome(status="failed", code="poisoned", message="it kills")
    with session.bound():
        ended = await end_turn(graph, again, thread.log, thread.saver, poisoned, commits=session)
        assert ended.outcome is not None
        await thread.saver.commit_outcome(session, ended.outcome, ended.closing)
    assert (ended.outcome.code, ended.outcome.text) == ("poisoned", "one")
    assert not [e for e in thread.log.events if isinstance(e, StepStarted)]
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert state.next == ()
    assert [message.content for message in state.values["messages"]] == ["hi", "one"]
    after = native(chain(MessagesState, first=says("next")))
    ended, _ = await run(thread, after, start(thread.new_turn()))
    assert ended.outcome is not None
    assert ended.outcome.text == "next"


async def test_a_retry_of_a_nested_graph_goes_on_at_its_own_step(thread: Thread) -> None:
    """The retry policy stands on the outer node: what the inner step before had done is kept."""
    ran: list[str] = []

    def node(name: str, fails: int = 0) -> Any:
        async def body(state: MessagesState) -> dict[str, Any]:
            ran.append(name)
            get_stream_writer()({"name": name, "number": ran.count(name)})
            if ran.count(name) <= fails:
                raise ConnectionError("reset")
            return {"messages": [AIMessage(name, id=f"m-{name}")]}

        return body

    inner = chain(MessagesState, first=node("first"), second=node("second", fails=1))
    policy = RetryPolicy(initial_interval=0.0, jitter=False, retry_on=ConnectionError)
    builder = StateGraph(MessagesState)
    builder.add_node("before", node("before"))
    builder.add_node("outer", inner.compile(), retry_policy=policy)
    builder.add_edge(START, "before")
    builder.add_edge("before", "outer")
    turn = start(thread.new_turn())
    ended, _ = await run(thread, entry(builder), turn)
    assert ended.outcome is not None
    assert (ended.outcome.status, ended.outcome.text) == ("completed", "second")
    assert ran == ["before", "first", "second", "second"]
    (retried,) = thread.said(TaskRetried)
    assert [keep.path for keep in retried.keep] == [f"{retried.path}|"]
    shown = [e.payload for e in thread.view(turn.turn_id).items if isinstance(e, CustomEmitted)]
    assert shown == [
        '{"name":"before","number":1}',
        '{"name":"first","number":1}',
        '{"name":"second","number":2}',
    ]
    texts = [message.text for message in transcript(thread.view(turn.turn_id)).messages]
    assert texts == ["before", "first", "second"]
    view = thread.view(turn.turn_id)
    assert view.gaps == 0
