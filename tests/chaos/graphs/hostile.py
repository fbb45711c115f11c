"""A graph that does what a graph should not: the text of its turn says what."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph

WAYS = ("exit", "interrupt", "cancel", "group", "recursion", "url", "unstorable", "deep", "custom")
"""Each of them ends its turn as failed."""
CUSTOM_BYTES = 9 << 20
DEEP = 100_000


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(DEEP):
        value = [value]
    return value


async def misbehave(state: MessagesState) -> dict[str, Any]:
    """Do what the last message asks for."""
    way = str(state["messages"][-1].content)
    match way:
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "cancel":
            raise asyncio.CancelledError
        case "group":
            raise BaseExceptionGroup("both", [SystemExit(3), ValueError("x")])
        case "recursion":
            raise RecursionError
        case "url":
            raise ValueError("postgresql://user:SECRET@host/db")
        case "unstorable":
            return {"messages": [AIMessage("x", additional_kwargs={"held": sys.stdout})]}
        case "deep":
            return {"messages": [AIMessage("x", additional_kwargs={"held": _deep()})]}
        case "custom":
            get_stream_writer()({"large": "x" * CUSTOM_BYTES})
    return {"messages": [AIMessage("said")]}


_graph = StateGraph(MessagesState)
_graph.add_node("misbehave", misbehave)
_graph.add_edge(START, "misbehave")
_graph.add_edge("misbehave", END)
hostile = _graph.compile()
