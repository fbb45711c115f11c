"""States as JSON that every client can read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from turnstream.schemas.errors import ConflictError, NotFoundError
from turnstream.streams.edge.surfaces.encoding import encode
from turnstream.streams.edge.surfaces.states import States

KEY = "acme/t"


@dataclass
class Thing:
    name: str


@pytest.mark.parametrize(
    ("value", "json_value"),
    [
        ({"a": float("nan")}, {"a": None}),
        ({1: "x", ("a", 1): "y"}, {"1": "x", "('a', 1)": "y"}),
        ("a\ud800b", "a\ufffdb"),
        (1 << 70, float(1 << 70)),
        ([Thing("x"), ValueError("no")], [{"name": "x"}, {"error": "ValueError", "message": "no"}]),
        ({"s": {1}}, {"s": [1]}),
        (object, "<class 'object'>"),
    ],
)
def test_whatever_a_graph_holds(value: Any, json_value: Any) -> None:
    assert json.loads(encode(value)) == json_value


def test_messages_have_the_fields_that_clients_read() -> None:
    call = {"name": "f", "args": {"a": 1}, "id": "c"}
    human, ai = json.loads(encode([HumanMessage("hi", id="h"), AIMessage("", tool_calls=[call])]))
    assert (human["type"], human["content"], human["id"]) == ("human", "hi", "h")
    assert ai["tool_calls"] == [{**call, "type": "tool_call"}]


async def asking(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(interrupt("sure?"))]}


@pytest.fixture
async def states() -> States:
    builder = StateGraph(MessagesState)
    builder.add_node("ask", asking)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": KEY}, "metadata": {"run_id": "r1"}}
    await graph.ainvoke({"messages": [HumanMessage("hi", id="h")]}, config)

    async def name(key: str) -> str | None:
        return {"acme/never": None, "acme/foreign": "gone"}.get(key, "mine")

    return States({"mine": graph}.get, name)


async def test_a_state_with_an_open_question(states: States) -> None:
    state = json.loads(encode(await states.state(KEY)))
    assert state["next"] == ["ask"]
    assert state["values"]["messages"][0]["content"] == "hi"
    assert state["checkpoint"]["thread_id"] == "t"
    assert state["metadata"]["thread_id"] == "t"
    task = state["tasks"][0]
    assert (task["name"], task["interrupts"][0]["value"]) == ("ask", "sure?")
    assert state["interrupts"] == task["interrupts"]
    assert "acme" not in json.dumps(state)
    assert json.loads(await states.values(KEY)) == state["values"]


async def test_history_and_checkpoints(states: States) -> None:
    history = await states.history(KEY, limit=10)
    assert [state["metadata"]["source"] for state in history] == ["loop", "input"]
    older = history[1]["checkpoint_id"]
    assert (await states.state(KEY, checkpoint_id=older))["values"] == history[1]["values"]
    assert await states.history(KEY, before=history[0]["checkpoint_id"]) == history[1:]
    assert (await states.of_turn(KEY, "r1"))["checkpoint_id"] == history[0]["checkpoint_id"]
    assert (await states.committed(KEY, older)) is not None


async def test_what_is_not_there(states: States, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await states.state("acme/never"))["values"] == {}
    assert await states.history("acme/never") == []
    with pytest.raises(ConflictError) as unknown:
        await states.state("acme/foreign")
    assert unknown.value.code == "graph_unknown"
    for wrong in ({"checkpoint_id": "x"}, {"ns": "nobody:1"}):
        with pytest.raises(NotFoundError):
            await states.state(KEY, **wrong)
    monkeypatch.setattr("turnstream.streams.edge.surfaces.states.COMMIT_WAIT_S", 0.02)
    assert await states.committed(KEY, "1ef4a9b8-e6fb-67b1-8001-abd5184439d1") is None
