"""What a turn leaves behind in memory: nothing that only a garbage collection would free."""

from __future__ import annotations

import gc
import json
import types
from collections import Counter
from pathlib import Path
from typing import Any

from turnstream.schemas.records.events import TurnCompleted, TurnFailed

GRAPH = """
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph

model = ChatOpenAI(model="scripted", base_url={url!r}, api_key="none", max_retries=0)

async def answer(state):
    return {{"messages": [await model.ainvoke(state["messages"])]}}

graph = StateGraph(MessagesState)
graph.add_node("model", answer)
graph.add_edge(START, "model")
graph.add_edge("model", END)
graph = graph.compile()
"""


def left() -> Counter[str]:
    """Our objects, and whole turns of LangGraph, that nothing refers to but themselves."""
    gc.collect()
    found: Counter[str] = Counter()
    for thing in gc.garbage:
        kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
        if kind == "turnstream.graph.run.collecting_saver.CollectingSaver":
            continue  # LangGraph's update of states has a function that refers to itself
        if isinstance(thing, types.TracebackType) or kind.startswith(("turnstream", "langgraph.r")):
            found[kind] += 1
    return found


async def test_turns_leave_no_cycles(scene: Any, tmp_path: Path, uncollected: None) -> None:
    """Of the built-in agent, of a graph with ChatOpenAI, and where the model refuses."""
    (tmp_path / "brought.py").write_text(GRAPH.format(url=scene.model.url))
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"brought": "./brought.py:graph"}}))
    async with scene.worker(langgraph_json=config):
        for graph in ("agent", "brought"):
            for text, end in (("tokens=3", TurnCompleted), ("error=400", TurnFailed)):
                for again in range(3):
                    thread = f"{graph}-{end.__name__}-{again}"
                    turn = await scene.start(thread, text, graph=graph)
                    assert isinstance((await scene.done(thread, turn)).terminal, end)
                    await scene.closed(turn)
                found = left()
                assert not found, (graph, text, found.most_common(20))
