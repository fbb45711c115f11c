"""A graph whose node or reducer blocks the event loop, each in another way, or hoards memory."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import threading
import time
from pathlib import Path
from typing import Annotated

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

LONG_S = 600.0


def slow(before: int, after: int) -> int:
    if after > 1:
        time.sleep(LONG_S)
    return operator.add(before, after)


class State(MessagesState):
    count: Annotated[int, slow]


def hoard(marker: Path) -> None:
    """Hold much memory, in a thread that nothing stops; the second time, little."""
    if not marker.exists():
        marker.touch()
        held = b"x" * (600 << 20)
        time.sleep(LONG_S)
        assert held


async def run(state: State) -> dict[str, object]:
    what, _, argument = state["messages"][-1].text.partition(" ")
    match what:
        case "pause":
            time.sleep(float(argument))
        case "sleep":
            time.sleep(LONG_S)
        case "compute":
            end = time.monotonic() + LONG_S
            while time.monotonic() < end:
                pass
        case "wait":
            threading.Event().wait(LONG_S)
        case "stubborn":
            for _ in range(3):
                with contextlib.suppress(BaseException):  # what some code does
                    time.sleep(LONG_S)
        case "reducer":
            return {"messages": [AIMessage("x")], "count": 2}
        case "hoard":
            await asyncio.to_thread(hoard, Path(argument))
        case "unstoppable":
            seen = Path(argument).exists()
            Path(argument).touch()
            while not seen:
                with contextlib.suppress(BaseException):
                    time.sleep(LONG_S)
    return {"messages": [AIMessage("done")], "count": 1}


def made() -> object:
    graph = StateGraph(State)
    graph.add_node("run", run)
    graph.add_edge(START, "run")
    graph.add_edge("run", END)
    return graph.compile()


graph = made()
