"""A worker dies in a nested graph: what its finished inner step said whole is not lost.

A whole message, which no model streams, comes to the log through the stream of the graph around,
and the inner step's commit has to come after it.
"""

from __future__ import annotations

import json
from collections import Counter

from turnstream.schemas.events import TurnCompleted
from turnstream.schemas.transcript import transcript

GRAPH = '''
"""A graph around one whose second step ends the first process that runs it."""

import os
import signal
from pathlib import Path

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

RAN = Path(__file__).with_name("ran")


def says(name, *, kills=False):
    async def node(state):
        with RAN.open("a") as ran:
            ran.write(f"{name}\\n")
        if kills and RAN.read_text().split().count(name) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"messages": [AIMessage(name, id=f"m-{name}")]}

    return node


def _inner():
    graph = StateGraph(MessagesState)
    graph.add_node("first", says("first"))
    graph.add_node("second", says("second", kills=True))
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    return graph.compile()


def _outer():
    graph = StateGraph(MessagesState)
    graph.add_node("inner", _inner())
    graph.add_node("after", says("after"))
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "after")
    return graph.compile()


outer = _outer()
'''


async def test_whole_messages_of_an_inner_step_outlive_kill_9(scene) -> None:
    (scene.folder / "nested.py").write_text(GRAPH)
    config = scene.folder / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"outer": "./nested.py:outer"}}))
    worker = scene.process("first", LANGGRAPH_JSON=str(config))
    await worker.ready()
    turn = await scene.start("t1", "go", graph="outer")
    await scene.until(lambda: worker.process.poll() is not None)
    # in a group of its own it need not wait until Kafka gives the dead member up
    group = f"{scene.settings.topic_prefix}second"
    async with scene.worker(langgraph_json=config, consumer_group=group):
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)
        assert (view.attempts, view.gaps, view.partial) == (2, 0, False)
        shown = [message.text for message in transcript(view).messages]
        assert shown == ["first", "second", "after"]
        await scene.closed(turn)
    ran = Counter((scene.folder / "ran").read_text().split())
    assert ran == {"first": 1, "second": 2, "after": 1}
