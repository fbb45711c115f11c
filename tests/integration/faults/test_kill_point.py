"""One kill -9, at a named point: a rollback is decided and not said, an inner step is committed."""

from __future__ import annotations

import json
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import (
    AttemptStarted,
    TokensEmitted,
    TurnCancelled,
    TurnCompleted,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
import points_worker

GRAPH = '''
"""A graph around one whose second step waits until a file is there."""

import asyncio
from pathlib import Path

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

RAN, OPEN = (Path(__file__).with_name(name) for name in ("ran", "open"))


def says(name, *, waits=False):
    async def node(state):
        with RAN.open("a") as ran:
            ran.write(f"{name}\\n")
        while waits and not OPEN.exists():
            await asyncio.sleep(0.01)
        return {"messages": [AIMessage(name, id=f"m-{name}")]}

    return node


def _inner():
    graph = StateGraph(MessagesState)
    graph.add_node("first", says("first"))
    graph.add_node("second", says("second", waits=True))
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


async def test_the_next_worker_says_the_rollback_and_keeps_the_inner_step(scene) -> None:
    (scene.folder / "nested.py").write_text(GRAPH)
    config = scene.folder / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"outer": "./nested.py:outer"}}))
    worker = scene.process(
        "first",
        program=points_worker.PROGRAM,
        TEST_POINTS=str(scene.folder),
        LANGGRAPH_JSON=str(config),
    )
    await worker.ready()
    nested = await scene.start("nested", "go", graph="outer")
    gone = await scene.start("t1", 'tool=current_time({"zone":"Asia/Seoul"}) tokens=500 rate=50')
    await scene.until(
        lambda: (
            (v := scene.view("t1", gone))
            and any(isinstance(item, TokensEmitted) and item.kind == "text" for item in v.items)
        )
    )
    await scene.until(lambda: "second" in ran(scene))
    points_worker.arm(scene.folder, "t1", "outcome", "kill")
    after = await scene.start("t1", "tokens=3", on_busy="rollback")
    await scene.until(lambda: worker.process.poll() is not None)
    row = await scene.db.fetchrow("SELECT * FROM turns WHERE turn_id = $1", uuid.UUID(gone))
    assert json.loads(row["outcome"])["code"] == "rollback"
    assert row["closed_at"] is None
    requests = len(scene.model.requests)
    (scene.folder / "open").touch()
    # in a group of its own it need not wait until Kafka gives the dead member up
    group = f"{scene.settings.topic_prefix}second"
    async with scene.worker(langgraph_json=config, consumer_group=group):
        await check_rolled_back(scene, gone, after)
        # nothing of it ran again, and only the next turn asked the model
        assert len(scene.model.requests) == requests + 1
        await check_inner_step_kept(scene, nested)


def ran(scene: Any) -> list[str]:
    file = scene.folder / "ran"
    return file.read_text().split() if file.exists() else []


async def check_rolled_back(scene: Any, gone: str, after: str) -> None:
    """The next owner says it, once; the sweep leaves a claimed turn to it."""
    view = await scene.done("t1", gone)
    assert isinstance(view.terminal, TurnCancelled)
    assert (view.terminal.cause, view.terminal.text) == ("rollback", "")
    assert (view.gaps, transcript(view).entries) == (0, [])
    assert isinstance((await scene.done("t1", after)).terminal, TurnCompleted)
    for turn in (gone, after):
        await scene.closed(turn)
    left = "SELECT DISTINCT metadata->>'run_id' AS turn FROM checkpoints WHERE thread_id = $1"
    assert [row["turn"] for row in await scene.db.fetch(left, "default/t1")] == [after]
    (result,) = await scene.until(lambda: [r for r in scene.results if r.turn_id == gone])
    assert (result.status, result.code, result.text) == ("cancelled", "rollback", "")
    assert sum(r.terminal for _, _, r in scene.log if r.turn_id == gone) == 1
    starts = [r.turn_id for _, _, r in scene.log if isinstance(r, AttemptStarted)]
    assert [turn for turn in starts if turn in (gone, after)] == [gone, gone, after]


async def check_inner_step_kept(scene: Any, turn: str) -> None:
    """A whole message comes to the log through the stream of the graph around.

    The inner step's commit has to come after it: else it is taken back, and nobody says it again.
    """
    view = await scene.done("nested", turn)
    assert isinstance(view.terminal, TurnCompleted)
    assert (view.attempts, view.gaps, view.partial) == (2, 0, False)
    shown = [message.text for message in transcript(view).messages]
    assert shown == ["first", "second", "after"]
    await scene.closed(turn)
    assert Counter(ran(scene)) == {"first": 1, "second": 2, "after": 1}
