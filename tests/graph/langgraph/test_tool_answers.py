"""Tools of one plain `ToolNode` that ask twice each: each answer reaches the call that asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from tests.graph.run.test_runner import KEY, Thread, chain, entry, opened, start
from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.graph.langgraph import tool_answers
from turnstream.graph.langgraph.stream.translate import MODES, Translator
from turnstream.graph.langgraph.stream.watch_tools import ToolTasks
from turnstream.graph.langgraph.tool_answers import signed
from turnstream.graph.run.input import TurnInput

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROUNDS = 30
"""LangGraph itself swaps answers of tools in threads in about every second round."""

ANSWERS = {"city?": "seoul", "city again?": "busan", "food?": "rice", "food again?": "kimchi"}


@pytest.fixture
async def thread(ledger_dsn: str) -> AsyncIterator[Thread]:
    async with opened(ledger_dsn) as made:
        yield made


@tool
def city(q: str) -> str:
    """Ask for two cities."""
    return f"{interrupt('city?')},{interrupt('city again?')}"


@tool
def food(q: str) -> str:
    """Ask for two dishes."""
    return f"{interrupt('food?')},{interrupt('food again?')}"


async def asks(state: MessagesState) -> dict[str, Any]:
    calls: list[Any] = [
        {"name": name, "args": {"q": ""}, "id": name, "type": "tool_call"}
        for name in ("city", "food")
    ]
    return {"messages": [AIMessage("", tool_calls=calls)]}


def asking() -> Any:
    return chain(MessagesState, asks=asks, tools=ToolNode([city, food]))


def results(values: Any) -> dict[str, str]:
    found = [m for m in values["messages"] if m.type == "tool"]
    return {m.tool_call_id: m.content for m in found}


async def test_answers_of_tools_in_threads_are_never_swapped() -> None:
    tool_answers.install()
    for number in range(ROUNDS):
        graph = asking().compile(checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": str(number)}}
        given: Any = {"messages": [("user", "hi")]}
        rounds = -1
        while given is not None:
            rounds += 1
            asked: dict[str, tuple[str, str]] = {}
            tools = ToolTasks(
                Translator(MemoryEmitter(), finished=lambda _: False, step_of=lambda _: 0)
            )
            async for item in graph.astream(
                given,
                {**config, "callbacks": [tools]},
                stream_mode=["updates", *MODES],
                version="v2",
            ):
                if item["type"] == "updates":
                    for one in item["data"].get("__interrupt__", ()):
                        asked[one.id] = (ANSWERS[one.value], tools.asker_of(one))
            answers = {key: answer for key, (answer, _) in asked.items()}
            askers = {key: asker for key, (_, asker) in asked.items()}
            assert set(askers.values()) <= {"city", "food"}
            given = Command(resume=signed(answers, askers)) if asked else None
        state = await graph.aget_state(config)
        assert results(state.values) == {"city": "seoul,busan", "food": "rice,kimchi"}
        assert rounds == 4, "nothing is asked for twice"


async def test_a_turns_answers_reach_the_calls_that_asked(thread: Thread) -> None:
    graph = entry(asking())
    ran = await thread.run(graph, start(thread.new_turn()))
    rounds = 0
    while ran.outcome is not None and ran.outcome.status == "interrupted":
        rounds += 1
        stored = thread.sql("SELECT interrupt FROM threads")[0]["interrupt"]
        answers = {one.id: ANSWERS[json.loads(one.payload)] for one in ran.outcome.interrupts}
        turn = TurnInput(
            turn_id=thread.new_turn(),
            thread_key=KEY,
            kind="resume",
            answers=answers,
            askers=stored["askers"],
        )
        ran = await thread.run(graph, turn)
    state = await graph.with_saver(thread.saver).aget_state({"configurable": {"thread_id": KEY}})
    assert results(state.values) == {"city": "seoul,busan", "food": "rice,kimchi"}
    assert rounds == 4


async def test_a_node_that_calls_a_tool_and_asks_as_well(thread: Thread) -> None:
    async def node(state: MessagesState) -> dict[str, Any]:
        before = interrupt("before?")
        said = await city.ainvoke(
            {"name": "city", "args": {"q": ""}, "id": "c", "type": "tool_call"}
        )
        return {"messages": [AIMessage(f"{before} {said.content} {interrupt('after?')}")]}

    graph = entry(chain(MessagesState, node=node))
    known = {**ANSWERS, "before?": "b", "after?": "a"}
    ran = await thread.run(graph, start(thread.new_turn()))
    asked = []
    while ran.outcome is not None and ran.outcome.status == "interrupted":
        asked += [json.loads(one.payload) for one in ran.outcome.interrupts]
        stored = thread.sql("SELECT interrupt FROM threads")[0]["interrupt"]
        turn = TurnInput(
            turn_id=thread.new_turn(),
            thread_key=KEY,
            kind="resume",
            answers={one.id: known[json.loads(one.payload)] for one in ran.outcome.interrupts},
            askers=stored.get("askers", {}),
        )
        ran = await thread.run(graph, turn)
    assert asked == ["before?", "city?", "city again?", "after?"]
    assert ran.outcome is not None
    assert ran.outcome.text == "b seoul,busan a"
