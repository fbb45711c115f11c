"""One graph that does what its user says, and what no graph should."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph

SECRET = "postgresql://admin:hunter2@db/prod"


async def spam(write: Any) -> None:
    while True:
        for _ in range(1000):
            write("x" * 1000)
        await asyncio.sleep(0)


async def node(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    what = str(state["messages"][-1].content)
    write = get_stream_writer()
    if what == "exit":
        sys.exit(3)
    if what == "exit in a thread":
        await asyncio.to_thread(sys.exit, 3)
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "exit in a task":
        await asyncio.gather(asyncio.create_task(asyncio.to_thread(exit, 1)))
    if what == "cancel":
        raise asyncio.CancelledError
    if what == "secret":
        raise ValueError(SECRET)
    if what == "lock":
        return {"messages": [AIMessage("x", additional_kwargs={"a": threading.Lock()})]}
    if what == "large event":
        write("x" * 5_000_000)
    if what == "endless output":
        await spam(write)
    if what == "large state":
        return {"messages": [AIMessage("x" * (65 << 20))]}
    if what == "many events":
        for n in range(50_000):
            write(n)
            if n % 1000 == 0:
                await asyncio.sleep(0)
    if what == "surrogate":
        return {"messages": [AIMessage("party \ud83d!")]}
    return {"messages": [AIMessage(f"thread {config['configurable']['thread_id']}")]}


def built() -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile()


agent = built()


def make(config: RunnableConfig) -> Any:
    if config["configurable"].get("factory") == "exits":
        sys.exit(4)
    return built()
