"""What brought graphs do wrong, on real Postgres: each turn ends alone, and the next one runs."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
import structlog
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel

from tests.graph.run.test_runner import KEY, Thread, chain, entry, opened, start
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import (
    StepFinished,
    ToolFailed,
)
from turnstream.schemas.text import clean_text
from turnstream.schemas.unexpected import counts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from langgraph.types import StateSnapshot

    from turnstream.graph.langgraph.catalog import GraphEntry
    from turnstream.schemas.records.results import Outcome

SECRET = "postgresql://admin:hunter2@db/prod"


class OddError(BaseException):
    """An exception that no `except Exception` sees."""


class HostileError(ValueError):
    """An exception that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)

    __repr__ = __str__


def deep(n: int) -> int:
    return deep(n + 1)


def _cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def _raise(error: BaseException) -> None:
    raise error


RAISES: dict[str, Callable[[], object]] = {
    "SystemExit": lambda: sys.exit(3),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
    "GeneratorExit": lambda: _raise(GeneratorExit()),
    "CancelledError": lambda: _raise(asyncio.CancelledError()),
    "OddError": lambda: _raise(OddError(SECRET)),
    "RecursionError": lambda: deep(0),
    "MemoryError": lambda: _raise(MemoryError(SECRET)),
    "ExceptionGroup": lambda: _raise(ExceptionGroup(SECRET, [ValueError(SECRET)])),
    "BaseExceptionGroup": lambda: _raise(BaseExceptionGroup("g", [SystemExit(1)])),
    "ValueError": lambda: _raise(ValueError(SECRET)),
    "HostileError": lambda: _raise(HostileError()),
    "StopIteration": lambda: next(iter(())),
}

EXITS = ("SystemExit", "KeyboardInterrupt", "CancelledError", "OddError", "StopIteration")

SHOWN = {
    "StopIteration": ("RuntimeError",),  # Python's own doing, in coroutines
    "CancelledError": ("CancelledError", "NodeCancelledError"),
}
"""What LangGraph or Python makes of some."""


@pytest.fixture
async def thread(ledger_dsn: str) -> AsyncIterator[Thread]:
    async with opened(ledger_dsn) as made:
        yield made


async def ended(thread: Thread, graph: GraphEntry, **given: Any) -> Outcome:
    outcome = (await thread.run(graph, start(thread.new_turn(), **given))).outcome
    assert outcome is not None
    return outcome


async def state_of(thread: Thread, graph: GraphEntry) -> StateSnapshot:
    return await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})


async def good(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("fine")]}


@pytest.mark.parametrize("how", ["async", "thread", "task", "parallel", "nested"])
async def test_whatever_a_node_raises_ends_its_turn_alone(thread: Thread, how: str) -> None:
    for name in RAISES if how == "async" else EXITS:
        act, before = RAISES[name], counts()["graph"]

        async def runs(state: MessagesState, act: Any = act) -> dict[str, Any]:
            act()
            return {}

        def in_thread(state: MessagesState, act: Any = act) -> dict[str, Any]:
            act()
            return {}

        async def in_task(state: MessagesState, runs: Any = runs) -> dict[str, Any]:
            await asyncio.gather(asyncio.create_task(runs(state)))
            return {}

        async def calls(state: MessagesState, runs: Any = runs) -> dict[str, Any]:
            await chain(MessagesState, inner=runs).compile().ainvoke(state)
            return {}

        node = {"thread": in_thread, "task": in_task, "nested": calls}.get(how, runs)
        builder = StateGraph(MessagesState)
        builder.add_node("breaks", node)
        builder.add_edge(START, "breaks")
        if how == "parallel":
            builder.add_node("beside", good)
            builder.add_edge(START, "beside")
        graph = entry(builder)
        with structlog.testing.capture_logs() as logs:
            outcome = await ended(thread, graph)
        assert (outcome.status, outcome.code) == ("failed", "graph_error"), name
        assert outcome.message.split(" (error id ")[0] in SHOWN.get(name, (name,))
        (noted,) = [one for one in logs if one["event"] == "unexpected_error"]
        assert noted["error_id"] in outcome.message
        assert any(__file__ in frame for frame in noted["frames"]), name
        assert "hunter2" not in str(logs) + str(thread.records) + outcome.message
        assert counts()["graph"] == before + 1
        assert "breaks" in (await state_of(thread, graph)).next
    after = entry(chain(MessagesState, good=good))
    assert (await ended(thread, after)).text == "fine"


async def test_a_failed_node_stays_next_and_its_error_is_a_class(thread: Thread) -> None:
    async def breaks(state: MessagesState) -> dict[str, Any]:
        raise ValueError(SECRET)

    graph = entry(chain(MessagesState, good=good, breaks=breaks))
    outcome = await ended(thread, graph)
    state = await state_of(thread, graph)
    assert state.next == ("breaks",)
    assert [task.error for task in state.tasks] == ["ValueError"]
    assert [m.content for m in state.values["messages"]] == ["hi", "fine"]
    assert outcome.text == "fine"
    assert [step.error for step in thread.said(StepFinished)] == ["", "ValueError"]


async def test_half_a_message_and_an_open_call_do_not_end_a_failed_state(thread: Thread) -> None:
    call = {"name": "look", "args": {}, "id": "call-1", "type": "tool_call"}

    async def asks(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("let me look", tool_calls=[call], id="m-1")]}

    async def breaks(state: MessagesState) -> dict[str, Any]:
        raise ValueError(SECRET)

    graph = entry(chain(MessagesState, asks=asks, breaks=breaks))
    await ended(thread, graph)
    state = await state_of(thread, graph)
    kinds = [(m.type, getattr(m, "tool_call_id", "")) for m in state.values["messages"]]
    assert kinds == [("human", ""), ("ai", ""), ("tool", "call-1")]
    assert state.next == ("breaks",)
    assert [task.error for task in state.tasks] == ["ValueError"]
    assert (await ended(thread, entry(chain(MessagesState, good=good)))).text == "fine"


class Strict(BaseModel):
    a: int = 0
    b: str = ""


@pytest.mark.parametrize("by", ["input", "node"])
async def test_a_value_that_the_schema_refuses_is_left_behind(thread: Thread, by: str) -> None:
    async def one(state: Strict) -> dict[str, Any]:
        return {"a": "foo"} if by == "node" and state.b == "bad" else {"b": "fine"}

    async def two(state: Strict) -> dict[str, Any]:
        return {"a": state.a + 1}

    graph = entry(chain(Strict, one=one, two=two))
    assert (await ended(thread, graph, input={"a": 1, "b": "ok"})).status == "completed"
    given = {"a": "foo"} if by == "input" else {"a": 5, "b": "bad"}
    outcome = await ended(thread, graph, input=given)
    assert (outcome.code, outcome.message[:15]) == ("graph_error", "ValidationError")
    state = await state_of(thread, graph)
    assert state.values["a"] == (2 if by == "input" else 5)
    assert (await ended(thread, graph, input={"b": "again"})).status == "completed"
    assert (await state_of(thread, graph)).values["a"] == (3 if by == "input" else 6)


async def test_a_value_stored_by_a_last_node_is_left_behind_by_the_turn_it_breaks(
    thread: Thread,
) -> None:
    async def one(state: Strict) -> dict[str, Any]:
        return {"a": "foo"} if state.b == "bad" else {"a": state.a + 1}

    graph = entry(chain(Strict, one=one))
    await ended(thread, graph, input={"b": "ok"})
    assert (await ended(thread, graph, input={"b": "bad"})).status == "completed"  # as LangGraph
    assert (await ended(thread, graph, input={"b": "x"})).code == "graph_error"
    assert (await ended(thread, graph, input={"b": "x"})).status == "completed"
    assert (await state_of(thread, graph)).values["a"] == 2


@pytest.mark.parametrize(
    "given",
    [
        {"messages": [{"content": SECRET}]},
        {"messages": [{"role": "nobody", "content": SECRET}]},
        {"messages": 7},
        [SECRET],
        SECRET,
    ],
)
async def test_an_input_that_the_graph_refuses_is_the_callers_mistake(
    thread: Thread, given: Any
) -> None:
    graph = entry(chain(MessagesState, good=good))
    await ended(thread, graph)
    with structlog.testing.capture_logs() as logs:
        outcome = await ended(thread, graph, input=given)
    assert (outcome.status, outcome.code) == ("failed", "invalid_input")
    assert "hunter2" not in str(logs) + outcome.message
    state = await state_of(thread, graph)
    assert [m.content for m in state.values["messages"]] == ["hi", "fine"]
    assert (await ended(thread, graph)).status == "completed"


async def test_a_node_that_returns_no_update_is_the_graphs_mistake(thread: Thread) -> None:
    async def wrong(state: MessagesState) -> Any:
        return SECRET

    outcome = await ended(thread, entry(chain(MessagesState, wrong=wrong)))
    assert (outcome.code, outcome.message[:18]) == ("graph_error", "InvalidUpdateError")


UNSTORABLE: dict[str, Callable[[], object]] = {
    "lock": threading.Lock,
    "function": lambda: lambda: 1,
    "generator": lambda: (x for x in ()),
    "nested": lambda: {"a": [object()]},
    "long integer": lambda: 2**70,
}


class Anything(TypedDict, total=False):
    x: Any


@pytest.mark.parametrize("what", UNSTORABLE)
async def test_a_state_that_no_store_takes(thread: Thread, what: str) -> None:
    async def node(state: Anything) -> dict[str, Any]:
        return {"x": UNSTORABLE[what]()}

    async def plain(state: Anything) -> dict[str, Any]:
        return {"x": "plain"}

    outcome = await ended(thread, entry(chain(Anything, node=node, plain=plain)), input={"x": 1})
    assert (outcome.status, outcome.code) == ("failed", "state_unstorable")
    graph = entry(chain(Anything, plain=plain))
    assert (await ended(thread, graph, input={"x": 1})).status == "completed"
    assert (await state_of(thread, graph)).values["x"] == "plain"


async def test_a_value_beyond_the_bound_is_refused(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    from turnstream.connectors.postgres.checkpoints import serializer as state_serde

    monkeypatch.setattr(state_serde, "VALUE_BYTES_MAX", 1000)

    async def grows(state: Anything) -> dict[str, Any]:
        return {"x": "x" * 1001}

    outcome = await ended(thread, entry(chain(Anything, grows=grows)), input={"x": ""})
    assert outcome.code == "state_unstorable"
    assert "1000 are allowed" in outcome.message


async def test_a_lone_surrogate_is_one_text_everywhere(thread: Thread) -> None:
    async def says(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("party \ud83d!", id="m")]}

    graph = entry(chain(MessagesState, says=says))
    turn_id = thread.new_turn()
    ran = await thread.run(graph, start(turn_id))
    assert ran.outcome is not None
    assert ran.outcome.text == "party \ufffd!"
    assert (await state_of(thread, graph)).values["messages"][-1].content == "party \ufffd!"
    (message,) = transcript(thread.view(turn_id)).messages
    assert (clean_text(message.text), message.intact) == ("party \ufffd!", True)  # as Avro has it


async def test_tools_errors_are_classes_for_clients(thread: Thread) -> None:
    @tool
    def look() -> str:
        """Look."""
        raise ConnectionError(SECRET)

    call = {"name": "look", "args": {}, "id": "c", "type": "tool_call"}

    async def asks(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("", tool_calls=[call])]}

    graph = entry(chain(MessagesState, asks=asks, tools=ToolNode([look], handle_tool_errors="no")))
    with structlog.testing.capture_logs() as logs:
        assert (await ended(thread, graph)).status == "completed"
    (failed,) = thread.said(ToolFailed)
    assert failed.message == "ConnectionError"
    (logged,) = [one for one in logs if one["event"] == "tool_failed"]
    assert any("test_failures.py" in frame for frame in logged["frames"])
    assert "hunter2" not in str(logs) + str(thread.records)
