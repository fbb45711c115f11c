"""Busy policies on the whole worker: what is kept, what goes, who runs next, and who dies when."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from turnstream.connectors.postgres.checkpoints.commit_pool import commit_pool
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
from turnstream.connectors.postgres.pools import saver_pool
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import TokensEmitted, TurnCancelled, TurnCompleted


async def said(scene: Any, thread: str, turn: str) -> None:
    """Wait for the first words; a tool's arguments are none."""
    await scene.until(
        lambda: (
            (v := scene.view(thread, turn))
            and any(isinstance(item, TokensEmitted) and item.kind == "text" for item in v.items)
        )
    )


async def checkpoints(scene: Any, thread: str) -> dict[str, list[str]]:
    """Ids of the thread's checkpoints in every namespace, and of those with writes, by turn."""
    rows = await scene.db.fetch(
        "SELECT checkpoint_ns, checkpoint_id, metadata->>'run_id' AS turn FROM checkpoints"
        " WHERE thread_id = $1",
        f"default/{thread}",
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["turn"], []).append(row["checkpoint_id"])
    writes = await scene.db.fetch(
        "SELECT DISTINCT checkpoint_id FROM checkpoint_writes WHERE thread_id = $1",
        f"default/{thread}",
    )
    known = {one for ids in found.values() for one in ids}
    assert {row["checkpoint_id"] for row in writes} <= known, "writes without a checkpoint"
    return found


async def messages(scene: Any, thread: str) -> list[tuple[str, str]]:
    """The thread's state as LangGraph has it."""
    dsn = scene.settings.database_url.get_secret_value()
    async with saver_pool(dsn) as pool, commit_pool(dsn) as commits:
        config = {"configurable": {"thread_id": f"default/{thread}", "checkpoint_ns": ""}}
        head = await FencedSaver(pool, commits).aget_tuple(config)
    if head is None:
        return []
    values = head.checkpoint["channel_values"].get("messages", [])
    return [(message.type, message.text) for message in values]


async def test_interrupt_keeps_the_text_and_goes_first(scene) -> None:
    async with scene.worker():
        first = await scene.start("t1", "tokens=500 rate=50")
        await said(scene, "t1", first)
        queued = await scene.start("t1", "tokens=2")
        front = await scene.start("t1", "tokens=3", on_busy="interrupt")
        view = await scene.done("t1", first)
        assert isinstance(view.terminal, TurnCancelled)
        assert view.terminal.cause == "interrupt"
        kept = transcript(view).messages[-1].text
        assert view.terminal.text == kept != ""
        for turn in (front, queued):
            assert isinstance((await scene.done("t1", turn)).terminal, TurnCompleted)
            await scene.closed(turn)
        starts = [r.turn_id for _, _, r in scene.log if type(r).__name__ == "AttemptStarted"]
        assert starts == [first, front, queued]
        kinds = [kind for kind, _ in await messages(scene, "t1")]
        assert kinds == ["human", "ai"] * 3
        assert ("ai", kept) in await messages(scene, "t1")
        (result,) = await scene.until(lambda: [r for r in scene.results if r.turn_id == first])
        assert (result.status, result.code) == ("cancelled", "interrupt")


async def test_rollback_leaves_nothing_of_the_turn(scene) -> None:
    async with scene.worker():
        before = await scene.start("t1", "tokens=2")
        await scene.done("t1", before)
        await scene.closed(before)
        state = await messages(scene, "t1")
        # its first step, a tool's, is committed; it is stopped in the second model call
        gone = await scene.start(
            "t1", 'tool=current_time({"zone":"Asia/Seoul"}) tokens=500 rate=50'
        )
        await said(scene, "t1", gone)
        assert gone in await checkpoints(scene, "t1")
        assert len(await messages(scene, "t1")) > len(state)
        after = await scene.start("t1", "tokens=3", on_busy="rollback")
        view = await scene.done("t1", gone)
        assert isinstance(view.terminal, TurnCancelled)
        assert (view.terminal.cause, view.terminal.text) == ("rollback", "")
        assert view.terminal.usage, "what was spent is said all the same"
        assert transcript(view).entries == []
        assert isinstance((await scene.done("t1", after)).terminal, TurnCompleted)
        await scene.closed(after)
        assert set(await checkpoints(scene, "t1")) == {before, after}
        assert (await messages(scene, "t1"))[: len(state)] == state
        assert len(await messages(scene, "t1")) == len(state) + 2
        result = next(r for r in scene.results if r.turn_id == gone)
        assert (result.status, result.code, result.text) == ("cancelled", "rollback", "")


async def test_rollback_of_the_first_turn_leaves_an_empty_thread(scene) -> None:
    async with scene.worker():
        gone = await scene.start(
            "t1", 'tool=current_time({"zone":"Asia/Seoul"}) tokens=500 rate=50'
        )
        await said(scene, "t1", gone)
        after = await scene.start("t1", "tokens=3", on_busy="rollback")
        await scene.cancel("t1", after)  # before or while it runs
        await scene.closed(after)
        await scene.closed(gone)
        assert gone not in await checkpoints(scene, "t1")


async def test_reject_says_so_and_harms_nobody(scene) -> None:
    async with scene.worker():
        first = await scene.start("t1", "tokens=100 rate=50")
        await said(scene, "t1", first)
        refused = await scene.start("t1", "tokens=2", on_busy="reject")
        view = await scene.done("t1", refused)
        assert (view.terminal.outcome, view.terminal.code) == ("rejected", "thread_busy")
        assert isinstance((await scene.done("t1", first)).terminal, TurnCompleted)
        await scene.closed(first)
        again = await scene.start("t1", "tokens=2", on_busy="reject")
        assert isinstance((await scene.done("t1", again)).terminal, TurnCompleted)


@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
async def test_the_owner_dies_before_it_is_told(scene, policy: str) -> None:
    """Nobody runs the turn when it comes: the next owner stops it, then runs the new one."""
    worker = scene.process("first")
    await worker.ready()
    before = await scene.start("t1", "tokens=2")
    await scene.done("t1", before)
    first = await scene.start("t1", 'tool=current_time({"zone":"Asia/Seoul"}) tokens=500 rate=50')
    await said(scene, "t1", first)
    worker.kill()
    front = await scene.start("t1", "tokens=3", on_busy=policy)
    async with scene.worker():
        view = await scene.done("t1", first)
        assert isinstance(view.terminal, TurnCancelled)
        assert isinstance((await scene.done("t1", front)).terminal, TurnCompleted)
        await scene.closed(front)
        left = set(await checkpoints(scene, "t1"))
        assert (first in left) == (policy == "interrupt")
        kinds = [kind for kind, _ in await messages(scene, "t1")]
        # the tool's step was committed before the crash, and a rollback takes even that back; the
        # next owner may have said something too before it was told
        kept = [["human", "ai", "tool"], ["human", "ai", "tool", "ai"]]
        assert kinds[2:-2] in (kept if policy == "interrupt" else [[]])
        assert kinds[:2] == kinds[-2:] == ["human", "ai"]


QUESTION = """
import asyncio
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt


def ask(state):
    return {"messages": [AIMessage(f"asked: {interrupt('really?')}")]}


async def slow(state):
    while True:
        await asyncio.sleep(0.01)


def build(*nodes):
    graph = StateGraph(MessagesState)
    for before, node in zip((START, *nodes), nodes):
        graph.add_node(node)
        graph.add_edge(before if before is START else before.__name__, node.__name__)
    graph.add_edge(nodes[-1].__name__, END)
    return graph


asks = build(ask, slow)
"""


async def test_rollback_of_an_answer_takes_back_what_it_wrote_on_the_question(
    scene, tmp_path
) -> None:
    """A resume's first writes hang on the asking turn's checkpoint: they go, that one stays."""
    (tmp_path / "asks.py").write_text(QUESTION)
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"asks": "./asks.py:asks"}}))
    async with scene.worker(langgraph_json=config):
        asking = await scene.start("t1", "go", graph="asks")
        (asked,) = (await scene.done("t1", asking)).terminal.interrupts
        await scene.closed(asking)
        answer = str(uuid.uuid4())
        await scene.send(
            {
                "type": "ResumeTurn",
                "thread_id": "t1",
                "turn_id": answer,
                "graph": "asks",
                "answers": {asked.id: "yes"},
            },
            key=b"t1",
        )
        await scene.until(
            lambda: (
                (v := scene.view("t1", answer))
                and any(getattr(item, "node", "") == "slow" for item in v.items)
            )
        )
        await scene.send(
            {"type": "CancelTurn", "thread_id": "t1", "turn_id": answer, "rollback": True},
            key=b"t1",
        )
        assert (await scene.done("t1", answer)).terminal.cause == "rollback"
        await scene.closed(answer)
        # the head is the asking turn's again, and nobody reads what hangs on it
        assert await scene.db.fetchval("SELECT interrupt FROM threads") is None
        head = max((await checkpoints(scene, "t1"))[asking])
        left = "SELECT count(*) FROM checkpoint_writes WHERE checkpoint_id = $1"
        assert await scene.db.fetchval(left, head) == 0
        after = await scene.start("t1", "tokens=3")
        assert isinstance((await scene.done("t1", after)).terminal, TurnCompleted)
        await scene.closed(after)
        assert set(await checkpoints(scene, "t1")) == {asking, after}
        assert [kind for kind, _ in await messages(scene, "t1")] == ["human", "human", "ai"]
