"""SIGTERM under load: every thread goes to the other worker, and no turn starts over.

The time from the last token of the old worker to the first of the new one is printed (`-s`), as
the log tells it by the records' own times.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import statistics
import sys
import time
import uuid
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from turnstream.schemas.fold.fold import Verdict
from turnstream.schemas.records.events import AttemptStarted, TokensEmitted, TurnCompleted

sys.path.insert(0, str(Path(__file__).parents[1]))
from kill_clients import PlainSocket, Sdk, shown_in
from kill_stage import Stage, asking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TURNS = 36
STEPS = 'tool=current_time({"zone":"Asia/Seoul"}) reasoning=8 rounds=%d tokens=20 rate=50'
"""Steps of a sixth of a second, each with tokens."""


def tokens_of(scene: Any, thread: str, turn: str) -> int:
    view = scene.view(thread, turn)
    return sum(isinstance(item, TokensEmitted) for item in view.items) if view else 0


def gaps_of(scene: Any, turns: dict[str, str]) -> list[float]:
    """Seconds between the tokens of two attempts, of each turn that had two."""
    said: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for _, _, record in scene.log:
        if isinstance(record, TokensEmitted):
            said[record.turn_id][record.epoch].append(record.at)
    found = []
    for turn in turns.values():
        attempts = [said[turn][epoch] for epoch in sorted(said[turn])]
        found += [
            (min(after) - max(before)) / 1e6 for before, after in itertools.pairwise(attempts)
        ]
    return sorted(found)


def tell(what: str, gaps: list[float]) -> None:
    p99 = gaps[min(len(gaps) - 1, round(0.99 * len(gaps)))]
    print(
        f"\n{what}: last token to first token p50 {statistics.median(gaps):.3f} s, "
        f"p99 {p99:.3f} s, most {gaps[-1]:.3f} s, {len(gaps)} turns"
    )


@pytest.mark.parametrize("budget_s", [1.0, 0.0], ids=["at a step's end", "at a token"])
async def test_sigterm_under_load(scene: Any, budget_s: float) -> None:
    workers = {
        name: scene.process(
            name, DRAIN_TIMEOUT_S=str(budget_s), AGENT_STEPS_MAX="50", LEASE_TTL_S="600"
        )
        for name in ("first", "second")
    }
    for worker in workers.values():
        await worker.ready()
    turns = {f"t{i}": await scene.start(f"t{i}", STEPS % 30) for i in range(TURNS)}
    await scene.until(lambda: all(tokens_of(scene, *turn) > 20 for turn in turns.items()))
    leaving = max(workers, key=lambda name: sum(r.worker == name for r in starts(scene)))
    theirs = {r.turn_id for r in starts(scene) if r.worker == leaving}
    began = time.monotonic()
    assert await workers[leaving].terminate() == 0
    took = time.monotonic() - began
    for thread, turn in turns.items():
        view = await scene.done(thread, turn, 60)
        assert isinstance(view.terminal, TurnCompleted)
        assert (view.gaps, view.partial) == (0, False)
        assert view.attempts == (2 if turn in theirs else 1)
    gaps = gaps_of(scene, turns)
    tell(f"{len(theirs)} turns handed over {'at steps' if budget_s else 'at tokens'}", gaps)
    print(f"the worker ended {took:.2f} s after SIGTERM")
    assert len(gaps) == len(theirs)
    results = await scene.until(
        lambda: len(scene.results) >= TURNS and {r.turn_id: r for r in scene.results}
    )
    assert {r.attempts for r in results.values()} == {1}, "a release does not count as an attempt"
    again = [r for r in starts(scene) if r.turn_id in theirs and r.worker != leaving]
    assert all(r.keep_n > 0 for r in again), "a turn was restarted from zero"
    if budget_s:
        assert Verdict.REWOUND not in scene.verdicts, "nothing said is taken back"


def starts(scene: Any) -> list[AttemptStarted]:
    return [r for _, _, r in scene.log if isinstance(r, AttemptStarted)]


WAITING = """
import asyncio, pathlib
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

async def wait(state):
    while not pathlib.Path(__file__).with_name("go on").exists():
        await asyncio.sleep(0.02)
    return {"messages": [AIMessage("done")]}

graph = StateGraph(MessagesState)
graph.add_node("wait", wait)
graph.add_edge(START, "wait")
graph.add_edge("wait", END)
graph = graph.compile()
"""


async def test_commands_do_not_wait_for_a_worker_that_hands_over(
    scene: Any, tmp_path: Path
) -> None:
    """It leaves the group at once, though its turns have ten minutes."""
    (tmp_path / "waiting.py").write_text(WAITING)
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"waiting": "./waiting.py:graph"}}))
    environment = {"DRAIN_TIMEOUT_S": "600", "LANGGRAPH_JSON": str(config)}
    workers = {name: scene.process(name, **environment) for name in ("first", "second")}
    for worker in workers.values():
        await worker.ready()
    slow = {f"slow-{i}": await scene.start(f"slow-{i}", "x", graph="waiting") for i in range(4)}
    await scene.until(lambda: {r.turn_id for r in starts(scene)} == set(slow.values()))
    leaving = starts(scene)[0].worker
    workers[leaving].process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    fresh = {f"fresh-{i}": await scene.start(f"fresh-{i}", "tokens=2") for i in range(8)}
    for thread, turn in fresh.items():
        await scene.done(thread, turn)
    print(f"\nnew turns over {time.monotonic() - began:.2f} s after SIGTERM")
    assert workers[leaving].process.poll() is None, "it had ended by itself"
    (tmp_path / "go on").touch()
    for thread, turn in slow.items():
        view = await scene.done(thread, turn)
        assert isinstance(view.terminal, TurnCompleted)
        assert view.attempts == 1, "it had time to end"


@pytest.fixture
async def stage(stack: dict[str, str], tmp_path: Path) -> AsyncIterator[Stage]:
    admin, name = stack["database"], f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        async with contextlib.AsyncExitStack() as opened:
            database = urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))
            made = Stage(stack["kafka"], database, f"{name}-", tmp_path)
            await made.open(opened)
            yield made
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def test_a_rolling_restart_of_all_workers_is_a_pause(stage: Stage) -> None:
    """Stock SDK clients on both transports and raw sockets see nothing taken back, and no end."""
    environment = {"DRAIN_TIMEOUT_S": "1", "AGENT_STEPS_MAX": "50"}
    began = time.monotonic()
    workers = [stage.worker(f"old-{i}", "rolling", **environment) for i in range(2)]
    await asyncio.gather(*(worker.ready() for worker in workers))
    # the turns are to outlast two more workers' start beside them, and two ends
    outlasting_s = 3 * (time.monotonic() - began) + 4
    reasoning = max(14, round(outlasting_s * 50 / 45))
    watched: dict[str, tuple[PlainSocket, dict[str, asyncio.Task[Any]]]] = {}
    for i in range(6):
        thread = await stage.thread(f"rolling-{i}")
        plain = PlainSocket(stage.url, thread)
        clients = {"socket": asyncio.create_task(plain.watch())}
        sse = Sdk(stage.url, thread, "agent", "sse")
        clients["sse"] = asyncio.create_task(sse.watch())
        async with asyncio.timeout(60):
            await asyncio.gather(plain.subscribed.wait(), sse.subscribed.wait())
        sdk = Sdk(stage.url, thread, "agent", "websocket")
        text = (STEPS % 45).replace("reasoning=8", f"reasoning={reasoning}")
        clients["websocket"] = asyncio.create_task(sdk.watch({"input": asking(text)}))
        watched[thread] = plain, clients
    fresh = [stage.worker(f"new-{i}", "rolling", **environment) for i in range(2)]
    for thread in watched:
        await stage.until(lambda thread=thread: speaks(stage, thread), f"tokens of {thread}")
    for worker, standing_by in zip(workers, fresh, strict=True):
        await standing_by.ready()
        worker.send(signal.SIGTERM)
        await stage.until(lambda worker=worker: not worker.alive, f"the end of {worker.name}")
    for thread, (plain, clients) in watched.items():
        async with asyncio.timeout(60):
            shown = dict(zip(clients, await asyncio.gather(*clients.values()), strict=True))
        view = await stage.done(thread)
        assert isinstance(view.terminal, TurnCompleted)
        log = shown_in(view)
        for client, seen in shown.items():
            assert (seen.messages, seen.tools) == (log.messages, log.tools), client
            assert not seen.taken_back, client
        assert plain.rewinds == 0
    attempts = [stage.view(thread).attempts for thread in watched]
    print(f"\nattempts a turn of {45 * reasoning / 50:.0f} s over two restarts: {attempts}")
    # how many turns outlast a worker depends on the machine; one shows what is to be seen
    assert sum(attempts) > len(watched), "no turn was running when its worker ended"


def speaks(stage: Stage, thread: str) -> bool:
    view = stage.view(thread)
    return view is not None and any(isinstance(item, TokensEmitted) for item in view.items)
