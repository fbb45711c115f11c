"""Questions and answers through Kafka: interrupted, resumed by id, superseded, refused."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from turnstream.schemas.records.events import (
    InputRequested,
    InputResolved,
    TurnCompleted,
    TurnInterrupted,
    TurnRejected,
)

GRAPH = """
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt


def ask(state):
    answer = interrupt({"question": "really?"})
    return {"messages": [AIMessage(f"you said {answer}")]}


graph = StateGraph(MessagesState)
graph.add_node("ask", ask)
graph.add_edge(START, "ask")
graph.add_edge("ask", END)
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "asking.py").write_text(GRAPH)
    path = tmp_path / "langgraph.json"
    path.write_text(json.dumps({"graphs": {"asking": "./asking.py:graph"}}))
    return path


async def answer(scene, thread: str, answers: dict) -> str:
    turn = str(uuid.uuid4())
    await scene.send(
        {
            "type": "ResumeTurn",
            "thread_id": thread,
            "turn_id": turn,
            "graph": "asking",
            "answers": answers,
            "actor": "kim",
        },
        key=thread.encode(),
    )
    return turn


async def test_a_question_is_answered_by_its_id(scene, config: Path) -> None:
    async with scene.worker(langgraph_json=config):
        turn = await scene.start("t1", "go", graph="asking")
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnInterrupted)
        (asked,) = view.terminal.interrupts
        assert json.loads(asked.payload) == {"question": "really?"}
        requests = [item for item in view.items if isinstance(item, InputRequested)]
        assert [request.interrupt_id for request in requests] == [asked.id]

        stranger = await answer(scene, "t1", {"f" * 32: "yes"})
        view = await scene.done("t1", stranger)
        assert isinstance(view.terminal, TurnRejected)

        resumed = await answer(scene, "t1", {asked.id: "yes"})
        view = await scene.done("t1", resumed)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
        assert view.terminal.text == "you said yes"
        resolved = scene.folds["default/t1"].board["InputResolved", asked.id]
        assert isinstance(resolved, InputResolved)
        assert resolved.actor == "kim"

        again = await answer(scene, "t1", {asked.id: "no"})
        view = await scene.done("t1", again)
        assert isinstance(view.terminal, TurnRejected)
        for each in (turn, stranger, resumed, again):
            await scene.closed(each)
        await scene.until(lambda: len(scene.results) >= 4)
        assert [r.status for r in scene.results] == [
            "interrupted",
            "rejected",
            "completed",
            "rejected",
        ]


async def test_a_new_turn_drops_the_question(scene, config: Path) -> None:
    async with scene.worker(langgraph_json=config):
        turn = await scene.start("t1", "go", graph="asking")
        view = await scene.done("t1", turn)
        (asked,) = view.terminal.interrupts
        other = await scene.start("t1", "tokens=2")
        assert isinstance((await scene.done("t1", other)).terminal, TurnCompleted)
        assert scene.folds["default/t1"].board["InputResolved", asked.id].actor == "superseded"
        late = await answer(scene, "t1", {asked.id: "yes"})
        assert isinstance((await scene.done("t1", late)).terminal, TurnRejected)
