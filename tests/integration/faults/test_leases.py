"""Dead workers are found by their sessions, and one that is blocked gives its threads up.

The time from kill -9 to the reaping, which is to be under 250 ms, is printed (`-s`).
"""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

from turnstream.schemas.records.events import AttemptStarted, TokensEmitted, TurnCompleted

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 8
HOLD = """
import asyncio, sys, uuid
from turnstream.connectors.postgres.ledger.lease import Lease

async def main():
    async with Lease(sys.argv[1], uuid.UUID(sys.argv[2]), "child", ttl_s=600.0) as lease:
        print("held", flush=True)
        while True:
            lease.beat()
            await asyncio.sleep(0.05)

asyncio.run(main())
"""
GRAPH = """
import pathlib, time
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

async def block(state):
    here = pathlib.Path(__file__)
    if not here.with_name("blocked").exists():
        here.with_name("blocked").touch()
        while not here.with_name("awake").exists():
            time.sleep(0.05)  # not awaited: nothing else runs in this process
    return {"messages": [AIMessage("awake")]}

graph = StateGraph(MessagesState)
graph.add_node("block", block)
graph.add_edge(START, "block")
graph.add_edge("block", END)
graph = graph.compile()
"""


async def test_a_killed_worker_is_reaped_by_its_sessions_end(scene: Any) -> None:
    """By a worker that has nothing else to do; the lease's time would take ten minutes."""
    database = scene.settings.database_url.get_secret_value()
    known = "SELECT count(*) FROM workers WHERE worker = $1"
    async with scene.worker():
        children = {}
        for _ in range(KILLS):
            worker = uuid.uuid4()
            children[worker] = subprocess.Popen(
                [sys.executable, "-c", HOLD, database, str(worker)], stdout=subprocess.PIPE
            )
        try:
            for child in children.values():
                assert await asyncio.to_thread(child.stdout.readline) == b"held\n"
            took = []
            for worker, child in children.items():
                assert await scene.db.fetchval(known, worker) == 1
                child.send_signal(signal.SIGKILL)
                killed = time.monotonic()
                async with asyncio.timeout(60):
                    while await scene.db.fetchval(known, worker):
                        await asyncio.sleep(0.001)
                took.append(time.monotonic() - killed)
        finally:
            for child in children.values():
                child.kill()
                child.communicate()
    took.sort()
    print(
        f"\nkill -9 to reaped: p50 {statistics.median(took) * 1000:.0f} ms, "
        f"most {took[-1] * 1000:.0f} ms, {len(took)} kills"
    )


async def test_a_worker_whose_loop_is_blocked_gives_its_threads_up(
    scene: Any, tmp_path: Path
) -> None:
    (tmp_path / "blocking.py").write_text(GRAPH)
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"blocking": "./blocking.py:graph"}}))
    workers = {
        name: scene.process(name, LANGGRAPH_JSON=str(config), LOOP_BLOCK_MAX_S="0")
        for name in ("first", "second")
    }
    for worker in workers.values():
        await worker.ready()
    turns = {f"t{i}": await scene.start(f"t{i}", "tokens=180 rate=30") for i in range(12)}
    await scene.until(lambda: all(tokens_of(scene, *turn) > 5 for turn in turns.items()))
    turns["block"] = await scene.start("block", "go", graph="blocking")
    began = time.monotonic()
    first = await scene.until(lambda: starts_of(scene, turns["block"]))
    blocked = first[0].worker
    theirs = [turn for turn in turns.values() if starts_of(scene, turn)[0].worker == blocked]
    await scene.until(lambda: all(len(starts_of(scene, turn)) > 1 for turn in theirs))
    took = time.monotonic() - began
    print(f"\n{len(theirs)} threads of a blocked worker claimed anew after {took:.1f} s")
    (tmp_path / "awake").touch()
    assert all(starts_of(scene, turn)[1].worker != blocked for turn in theirs)
    for thread, turn in turns.items():
        view = await scene.done(thread, turn, 60)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
        assert (view.gaps, view.partial) == (0, False)
        assert view.attempts == (2 if turn in theirs else 1)
        await scene.closed(turn)
    # it woke under a lease that is over: what it still said is void, and then it takes turns again
    await workers[blocked].ready()
    for name, worker in workers.items():
        if name != blocked:
            worker.kill()
    after = await scene.start("after", "tokens=3")
    assert isinstance((await scene.done("after", after)).terminal, TurnCompleted)
    assert starts_of(scene, after)[0].worker == blocked


def starts_of(scene: Any, turn: str) -> list[AttemptStarted]:
    return [r for _, _, r in scene.log if isinstance(r, AttemptStarted) and r.turn_id == turn]


def tokens_of(scene: Any, thread: str, turn: str) -> int:
    view = scene.view(thread, turn)
    return sum(isinstance(item, TokensEmitted) for item in view.items) if view else 0
