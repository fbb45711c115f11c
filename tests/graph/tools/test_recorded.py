"""Calls that take effect once: the rule, the agent's tool node, and LangGraph's own."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import RetryPolicy, Send

from turnstream.connectors.memory.tool_calls import MemoryToolCalls
from turnstream.graph.ports.tools import Effects
from turnstream.graph.recorded import get_idempotency_key, record_with, recorded
from turnstream.graph.tools.recorded_calls import call_once, digest_of
from turnstream.schemas.tool_calls import ToolCall, idempotency_key

CALL = ToolCall("task", 0, "act", b"digest", "key", "call-1")


class Once:
    """One call after another through `call_once`, counted."""

    def __init__(self, *, honours_key: bool = False, found: Any = None) -> None:
        self.rows: dict[Any, Any] = {}
        self.honours_key, self.found = honours_key, found
        self.made = 0
        self.raises: BaseException | None = None

    async def attempt(self, call: ToolCall = CALL) -> Any:
        self.ledger = MemoryToolCalls(self.rows)
        return await call_once(
            self.ledger,
            call,
            honours_key=self.honours_key,
            run=self.run,
            find=self.find,
            unknown=lambda why: f"unknown: {why}",
        )

    async def run(self) -> str:
        self.made += 1
        if self.raises is not None:
            raise self.raises
        return f"run {self.made}"

    async def find(self) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


async def interrupted(once: Once, error: BaseException) -> None:
    once.raises = error
    with pytest.raises(type(error)):
        await once.attempt()
    once.raises = None


async def test_a_recorded_result_is_used_again() -> None:
    once = Once()
    assert [await once.attempt() for _ in range(3)] == ["run 1"] * 3
    assert once.made == 1


@pytest.mark.parametrize("error", [SystemExit(), OSError()])
async def test_a_tool_that_honours_its_key_is_called_again(error: BaseException) -> None:
    once = Once(honours_key=True)
    await interrupted(once, error)
    assert await once.attempt() == "run 2"
    assert await once.attempt() == "run 2"


@pytest.mark.parametrize("found", [None, OSError("the tool's server is away")])
async def test_any_other_is_not_and_stays_unknown(found: Any) -> None:
    once = Once(found=found)
    await interrupted(once, SystemExit())
    first = await once.attempt()
    assert first.startswith("unknown: It is not known whether act took effect")
    once.found = "done"  # a later answer does not change what the model was told
    assert await once.attempt() == first
    assert once.made == 1


async def test_what_a_query_finds_is_the_result() -> None:
    once = Once(found="done before")
    await interrupted(once, SystemExit())
    once.found = "done before"
    assert await once.attempt() == "done before"
    assert once.made == 1


async def test_other_arguments_are_not_tried_even_with_a_key() -> None:
    once = Once(honours_key=True)
    assert await once.attempt() == "run 1"
    other = await once.attempt(CALL._replace(digest=b"other"))
    assert other.startswith("unknown: ")
    assert "other arguments" in other
    assert await once.attempt() == "run 1"


async def test_a_question_is_asked_and_the_call_made_again() -> None:
    once = Once()
    await interrupted(once, GraphInterrupt())
    assert await once.attempt() == "run 2"


async def test_open_are_only_calls_that_were_stopped() -> None:
    once = Once()
    await once.attempt()
    assert once.ledger.open == {}
    for error in (GraphInterrupt(), OSError()):
        once = Once()
        await interrupted(once, error)
        assert once.ledger.open == {}
    once = Once()
    await interrupted(once, SystemExit())
    assert list(once.ledger.open.values()) == [CALL]


def test_the_order_of_arguments_does_not_count() -> None:
    assert digest_of("a", {"x": 1, "y": [{"b": 1, "a": 2}]}) == digest_of(
        "a", {"y": [{"a": 2, "b": 1}], "x": 1}
    )
    different = [("a", {}), ("b", {}), ("a", {"x": 1}), ("a", {"x": "1"}), ("a", {"x": [1, 2]})]
    assert len({digest_of(name, arguments) for name, arguments in different}) == len(different)


def test_keys_differ_by_tenant_chain_place_and_ordinal() -> None:
    origin = uuid.UUID(int=1)
    given = [
        ("a/t", origin, "1:tools:tools", 0),
        ("b/t", origin, "1:tools:tools", 0),
        ("a/t", uuid.UUID(int=2), "1:tools:tools", 0),
        ("a/t", origin, "3:tools:tools", 0),
        ("a/t", origin, "1:tools:tools", 1),
    ]
    assert len({idempotency_key(*one) for one in given}) == len(given)
    assert idempotency_key(*given[0]) == idempotency_key(*given[0])


# -- LangGraph's own tool node ---------------------------------------------------------------------


class Brought:
    """A graph with LangGraph's tool node; `acted` are the calls with their keys."""

    def __init__(self, kinds: dict[str, Effects | None], **node: Any) -> None:
        self.acted: list[tuple[str, str]] = []
        self.raises: list[BaseException] = []

        @tool
        async def act(what: str) -> str:
            """Act."""
            self.acted.append((what, get_idempotency_key()))
            if self.raises:
                raise self.raises.pop()
            return f"{what} done"

        @tool
        def plain(what: str) -> str:
            """Act in a thread."""
            self.acted.append((what, get_idempotency_key()))
            return f"{what} done"

        graph = StateGraph(MessagesState)
        tools = ToolNode([act, plain], awrap_tool_call=recorded(kinds))
        graph.add_node("tools", tools, **node)
        graph.add_edge(START, "tools")
        self.graph = graph.compile(checkpointer=InMemorySaver())
        self.rows: dict[Any, Any] = {}

    async def run(self, *calls: tuple[str, str], thread: str = "t", ids: str = "") -> list[Any]:
        """Run the node on an answer with these calls, its task being the same each time."""
        self.ledger = MemoryToolCalls(self.rows)
        record_with(self.ledger)
        asked = [
            {"name": name, "args": {"what": what}, "id": ids or f"c{i}"}
            for i, (name, what) in enumerate(calls)
        ]
        given = [HumanMessage("x"), AIMessage("", tool_calls=asked)]
        config: Any = {"configurable": {"thread_id": thread}, "metadata": {"run_id": "r"}}
        state = await self.graph.ainvoke({"messages": given}, config, durability="sync")
        return [m for m in state["messages"] if isinstance(m, ToolMessage)]


async def test_each_of_parallel_calls_is_recorded_with_a_key_of_its_own() -> None:
    brought = Brought({})
    messages = await brought.run(("act", "a"), ("plain", "b"), ("act", "a"))
    assert [m.content for m in messages] == ["a done", "b done", "a done"]
    assert len({key for _, key in brought.acted}) == 3
    assert sorted(ordinal for _, _, ordinal in brought.rows) == [0, 1, 2]


async def test_calls_of_one_id_are_still_told_apart() -> None:
    brought = Brought({})
    await brought.run(("act", "a"), ("act", "a"), ids="same")
    assert len(brought.acted) == len(brought.rows) == 2


async def test_a_tool_without_effects_is_not_recorded() -> None:
    brought = Brought({"act": None})
    assert [m.content for m in await brought.run(("act", "a"))] == ["a done"]
    assert brought.rows == {}


async def test_a_retry_of_the_node_calls_a_tool_again_only_if_it_honours_its_key() -> None:
    policy = RetryPolicy(initial_interval=0.01, max_attempts=2, retry_on=OSError)
    keyed = Brought({"act": Effects(honours_key=True)}, retry_policy=policy)
    keyed.raises = [OSError("away")]
    (message,) = await keyed.run(("act", "a"))
    assert message.content == "a done"
    assert len(keyed.acted) == 2
    assert len({key for _, key in keyed.acted}) == 1
    other = Brought({}, retry_policy=policy)
    other.raises = [OSError("away")]
    (message,) = await other.run(("act", "a"))
    assert (message.status, message.artifact) == ("error", {"code": "tool_indeterminate"})
    assert len(other.acted) == 1


async def test_a_tool_nodes_arguments_that_are_wrong_are_a_result() -> None:
    brought = Brought({})
    (message,) = await brought.run(("nothing", "a"))
    assert message.status == "error"
    assert [state for _, state, _ in brought.rows.values()] == ["done"]


async def test_one_call_a_task_as_agents_send_them() -> None:
    brought = Brought({})
    calls = [
        {"name": "act", "args": {"what": what}, "id": what, "type": "tool_call"} for what in "ab"
    ]
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda _: {"messages": [AIMessage("", tool_calls=calls)]})
    graph.add_node("tools", brought.graph.nodes["tools"].bound)
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", lambda _: [Send("tools", [call]) for call in calls])
    record_with(MemoryToolCalls(brought.rows))
    config: Any = {"configurable": {"thread_id": "t"}}
    await graph.compile(checkpointer=InMemorySaver()).ainvoke({"messages": []}, config)
    assert sorted(what for what, _ in brought.acted) == ["a", "b"]
    assert len({key for _, key in brought.acted}) == len(brought.rows) == 2


async def test_outside_of_turnstream_the_wrapper_only_calls() -> None:
    import contextvars

    brought = Brought({})

    async def alone() -> list[Any]:
        return await brought.graph.ainvoke(
            {
                "messages": [
                    AIMessage("", tool_calls=[{"name": "act", "args": {"what": "a"}, "id": "c"}])
                ]
            },
            {"configurable": {"thread_id": "alone"}},
        )

    import asyncio

    state: Any = await asyncio.create_task(alone(), context=contextvars.Context())
    assert state["messages"][-1].content == "a done"
    assert uuid.UUID(brought.acted[0][1])
    assert brought.rows == {}
