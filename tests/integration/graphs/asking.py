"""Graphs that ask: several at once, from a tool, one after the other, against time."""

import asyncio
from typing import Literal

from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Send, interrupt
from pydantic import BaseModel


class Decision(BaseModel):
    """An answer with a model of its own."""

    decision: Literal["yes", "no"]
    amount: int = 0


COUNT = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}


def decide(state: MessagesState) -> dict:
    """Ask for a decision."""
    answer = interrupt({"question": "decide"}, response_schema=Decision)
    return {"messages": [AIMessage(f"decided {answer.decision} {answer.amount}")]}


def count(state: MessagesState) -> dict:
    """Ask for a number."""
    answer = interrupt({"question": "count"}, response_schema=COUNT)
    return {"messages": [AIMessage(f"counted {answer['count']}")]}


def quick(state: MessagesState) -> dict:
    """Ask nothing."""
    return {"messages": [AIMessage("quick")]}


def twice(state: MessagesState) -> dict:
    """Ask one question after the other."""
    first = interrupt("first?")
    return {"messages": [AIMessage(f"{first}, then {interrupt('second?')}")]}


async def first(state: MessagesState) -> dict:
    """Ask, and take for ever with the answer."""
    interrupt("first?")
    while True:
        await asyncio.sleep(0.01)


def second(state: MessagesState) -> dict:
    """Ask."""
    return {"messages": [AIMessage(interrupt("second?"))]}


def soon(state: MessagesState) -> dict:
    """Ask for an answer in time."""
    return {"messages": [AIMessage(str(interrupt({"question": "quick!", "expires_in_s": 0.5})))]}


@tool
def book(city: str) -> str:
    """Book a trip."""
    return f"{city}: {interrupt({'question': f'book {city}?'})}"


def plan(state: MessagesState) -> dict:
    """Call the tool twice at once."""
    calls = [{"name": "book", "args": {"city": city}, "id": city} for city in ("Seoul", "Busan")]
    return {"messages": [AIMessage("", tool_calls=calls)]}


def fan_out(state: MessagesState) -> list[Send]:
    """Give each call a task of its own, as LangChain's agents do: each asks for itself."""
    return [Send("tools", [call]) for call in state["messages"][-1].tool_calls]


def _graph(*nodes: object) -> object:
    graph = StateGraph(MessagesState)
    for node in nodes:
        graph.add_node(node)
        graph.add_edge(START, node.__name__)
        graph.add_edge(node.__name__, END)
    return graph.compile()


def _tools() -> object:
    graph = StateGraph(MessagesState)
    graph.add_node(plan)
    graph.add_node("tools", ToolNode([book]))
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", fan_out, ["tools"])
    graph.add_edge("tools", END)
    return graph.compile()


several = _graph(decide, count, quick)
steps = _graph(twice)
slow = _graph(first, second)
timed = _graph(soon)
tools = _tools()
