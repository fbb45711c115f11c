"""A graph that says something, stores it, and then ends the process that runs it."""

import os
import signal
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph


async def speaks(state: MessagesState) -> dict[str, Any]:
    """Say something that will be kept."""
    return {"messages": [AIMessage("so far so good")]}


async def kills(state: MessagesState) -> dict[str, Any]:
    """End the process, by one way or the other."""
    get_stream_writer()({"name": "last words"})
    if os.getpid() % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _deadly() -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("speaks", speaks)
    graph.add_node("kills", kills)
    graph.add_edge(START, "speaks")
    graph.add_edge("speaks", "kills")
    return graph.compile()


deadly = _deadly()
