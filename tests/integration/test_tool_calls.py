"""Tools that count their own effects, and workers that die or freeze around their calls.

Threads are named after the place where their turn halts: see `counting_worker.py`. All turns are
brought to their places on one worker, which then is killed (-9) or stopped; another goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import threading
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg
import pytest
from langgraph.types import interrupt
from pydantic import BaseModel, SecretStr

from turnstream.connectors.postgres.migrate import migrate
from turnstream.graph.agent.builder import agent_entry
from turnstream.graph.langgraph.catalog import Catalog
from turnstream.graph.ports.lookup import Services
from turnstream.graph.ports.model import MODEL
from turnstream.graph.ports.tools import ToolCallContext
from turnstream.graph.tools import built_in_tools
from turnstream.graph.tools.function import FunctionTool
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import (
    AttemptStarted,
    TurnCancelled,
    TurnCompleted,
    TurnInterrupted,
)
from turnstream.streams.app.graphs import model_of
from turnstream.streams.app.worker import open_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.integration.conftest import Process, Scene

HERE = Path(__file__).parent
GRAPHS = HERE.parent / "chaos" / "graphs"
sys.path.insert(0, str(GRAPHS))
import counting  # noqa: E402

PLACES = ("asked", "begun", "acted", "told")
KINDS = tuple(counting.KINDS)
INDETERMINATE = "tool_indeterminate"


@pytest.fixture
def halting(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The scene, its workers being told where to halt and what to count in."""
    with psycopg.connect(scene.settings.direct_url, autocommit=True) as connection:
        connection.execute(counting.EFFECTS)
    monkeypatch.setenv("COUNTING_DATABASE", scene.settings.direct_url)
    monkeypatch.setenv("SCRIPTED_URL", scene.model.url)
    monkeypatch.setenv("HALT_FOLDER", str(scene.folder))
    return scene


def worker(scene: Scene, name: str) -> Process:
    return scene.process(
        name,
        program=(str(HERE / "counting_worker.py"),),
        LANGGRAPH_JSON=str(GRAPHS / "langgraph.json"),
    )


async def halted(scene: Scene, threads: list[str], calls: int = 1) -> None:
    """Wait until each of these threads is at its place, with so many calls."""

    def there(thread: str) -> bool:
        file = scene.folder / f"{thread}.{thread.split('-')[1]}"
        return file.exists() and len(file.read_text().split()) >= calls

    await scene.until(lambda: all(there(thread) for thread in threads))


async def effects(scene: Scene, thread: str) -> Counter[str]:
    rows = await scene.db.fetch(
        "SELECT tool, count(*) AS acted FROM chaos_effects WHERE thread_key = $1 GROUP BY tool",
        f"default/{thread}",
    )
    return Counter({row["tool"]: row["acted"] for row in rows})


def shown(scene: Scene, thread: str, turn: str) -> dict[str, Any]:
    """The turn's tools as the log tells of them, by name."""
    view = scene.view(thread, turn)
    assert view is not None
    assert (view.gaps, view.partial) == (0, False)
    return {tool.name: tool for tool in transcript(view).tools}


def told(scene: Scene, what: str) -> list[str]:
    """What the model was told last of its tools, in the conversation about `what`."""
    requests = [r.messages for r in scene.model.requests if f'"{what}"' in str(r.messages[0:3])]
    return [m["content"] for m in requests[-1] if m["role"] == "tool"]


def check_call(tool: Any, kind: str, place: str, acted: int) -> None:
    """Hold what became of a call that was interrupted at a place against the rules."""
    known = place in ("asked", "told") or kind == "charge" or (kind, place) == ("post", "acted")
    assert (tool.state, tool.code) == (("finished", "") if known else ("failed", INDETERMINATE))
    assert acted == (0 if not known and place == "begun" else 1), f"{kind} acted {acted} times"
    if known:
        assert tool.output.endswith(f": {kind} done")
    else:
        assert "not known whether" in tool.output


@pytest.mark.parametrize("graph", ["agent", "effects_nested"])
async def test_killed_around_a_call(halting: Scene, graph: str) -> None:
    scene = halting
    first = worker(scene, "first")
    await first.ready()
    cases = {f"{kind}-{place}-x": (kind, place) for kind in KINDS for place in PLACES}
    turns = {
        thread: await scene.start(thread, f'tool={kind}({{"what":"{thread}"}})', graph=graph)
        for thread, (kind, _) in cases.items()
    }
    parallel = "all-begun-x"
    three = " ".join(f'tool={kind}({{"what":"{parallel}"}})' for kind in KINDS)
    turns[parallel] = await scene.start(parallel, three, graph=graph)
    stopped = {f"{kind}-begun-stopped": kind for kind in KINDS}
    for thread, kind in stopped.items():
        turns[thread] = await scene.start(thread, f'tool={kind}({{"what":"x"}})', graph=graph)
    await halted(scene, [*cases, *stopped])
    await halted(scene, [parallel], len(KINDS))
    first.kill()
    (scene.folder / "open").touch()
    keys = [f"default/{thread}" for thread in stopped]
    await scene.db.execute("UPDATE threads SET cancel = 'cancel' WHERE thread_key = ANY ($1)", keys)
    await worker(scene, "second").ready()
    for thread, turn in turns.items():
        view = await scene.done(thread, turn)
        ended = TurnCancelled if thread in stopped else TurnCompleted
        assert isinstance(view.terminal, ended), view.terminal
        assert view.attempts == 2
    for thread, kind in stopped.items():
        tool = shown(scene, thread, turns[thread])[kind]
        assert (tool.state, tool.code) == ("failed", INDETERMINATE)
    for thread, (kind, place) in cases.items():
        acted = (await effects(scene, thread))[kind]
        tool = shown(scene, thread, turns[thread])[kind]
        check_call(tool, kind, place, acted)
        assert told(scene, thread) == [tool.output]
    together, acts = shown(scene, parallel, turns[parallel]), await effects(scene, parallel)
    assert together.keys() == set(KINDS)
    for kind in KINDS:
        check_call(together[kind], kind, "begun", acts[kind])


@pytest.mark.parametrize("graph", ["agent", "effects"])
async def test_a_frozen_worker_wakes_up_in_the_middle_of_a_call(
    halting: Scene, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    """Its tools are plain functions: nothing stops them when it wakes up."""
    scene = halting
    monkeypatch.setenv("COUNTING_PLAIN", "1")
    frozen = worker(scene, "frozen")
    await frozen.ready()
    cases = {f"{kind}-{place}-x": (kind, place) for kind in KINDS for place in PLACES}
    turns = {
        thread: await scene.start(thread, f'tool={kind}({{"what":"{thread}"}})', graph=graph)
        for thread, (kind, _) in cases.items()
    }
    await halted(scene, list(cases))
    other = worker(scene, "other")
    await other.ready()
    frozen.process.send_signal(signal.SIGSTOP)
    (scene.folder / "open").touch()
    for thread, turn in turns.items():
        view = await scene.done(thread, turn)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
    frozen.process.send_signal(signal.SIGCONT)
    begun = [thread for thread, (_, place) in cases.items() if place == "begun"]

    async def woken() -> bool:
        return all([(await effects(scene, thread)).total() for thread in begun])

    async with asyncio.timeout(60):  # what was about to act acts now
        while not await woken():
            await asyncio.sleep(0.02)
    await scene.until(lambda: "lease_lost" in frozen.log.read_text())
    await frozen.ready()
    for thread, (kind, _) in cases.items():
        assert (await effects(scene, thread))[kind] == 1, thread
        starts = [r for _, _, r in scene.log if isinstance(r, AttemptStarted)]
        ours = [r.worker for r in starts if r.turn_id == turns[thread]]
        assert ours == ["frozen", "other"]
        shown(scene, thread, turns[thread])
    rows = await scene.db.fetch("SELECT * FROM tool_calls WHERE state <> 'done'")
    assert rows == [], "the one who took over has written every result"
    assert json.loads((await scene.closed(turns[begun[0]]))["outcome"])["status"] == "completed"


class What(BaseModel):
    """Arguments of the tools below."""

    what: str


async def act(kind: str, arguments: What, context: ToolCallContext) -> str:
    turn = str(context.turn_id)
    return await counting.act(
        kind, arguments.what, context.idempotency_key, context.thread_key, turn
    )


@contextlib.asynccontextmanager
async def agent(scene: Scene, *tools: FunctionTool[Any], url: str = "") -> AsyncIterator[None]:
    """A worker inside of this process, whose agent has these tools."""
    settings = scene.settings
    if url:
        settings = settings.model_copy(update={"database_url": SecretStr(url)})
    async with model_of(settings) as model:
        catalog = Catalog()
        catalog.add(agent_entry(Services().adding(MODEL, model), [*built_in_tools(), *tools]))
        async with open_worker(settings, catalog=catalog) as opened:
            running = asyncio.create_task(opened.run())
            try:
                yield
            finally:
                opened.stop()
                async with asyncio.timeout(60):
                    await running


async def answer(scene: Scene, thread: str, answers: dict[str, Any]) -> str:
    turn = str(uuid.uuid4())
    given = {"type": "ResumeTurn", "thread_id": thread, "turn_id": turn, "answers": answers}
    await scene.send({**given, "actor": "kim"}, key=thread.encode())
    return turn


async def test_a_resume_calls_what_asked_and_not_what_had_finished_beside_it(
    halting: Scene,
) -> None:
    scene = halting

    async def mark(arguments: What, context: ToolCallContext) -> str:
        """Act at once."""
        return await act("mark", arguments, context)

    async def pay(arguments: What, context: ToolCallContext) -> str:
        """Ask, and then act."""
        said = interrupt({"question": f"pay {arguments.what}?"})
        return f"{said}: {await act('post', arguments, context)}"

    calls = 'tool=mark({"what":"a"}) tool=pay({"what":"b"}) tool=current_time({})'
    async with agent(scene, FunctionTool(mark, What), FunctionTool(pay, What)):
        first = await scene.start("t1", calls)
        view = await scene.done("t1", first)
        assert isinstance(view.terminal, TurnInterrupted)
        (asked,) = view.terminal.interrupts
        assert await effects(scene, "t1") == {"mark": 1}
        resumed = await answer(scene, "t1", {asked.id: "yes"})
        view = await scene.done("t1", resumed)
        assert isinstance(view.terminal, TurnCompleted)
    assert await effects(scene, "t1") == {"mark": 1, "post": 1}
    tools = shown(scene, "t1", resumed)
    assert (tools["mark"].output, tools["pay"].output) == ("a: mark done", "yes: b: post done")
    rows = await scene.db.fetch("SELECT name, origin, state, ordinal FROM tool_calls ORDER BY 4")
    # the clock has no effects: nothing is recorded of it
    assert [(row["name"], str(row["origin"]), row["state"]) for row in rows] == [
        ("mark", first, "done"),
        ("pay", first, "done"),
    ]


async def test_a_call_in_a_thread_that_outlives_its_cancel_is_reported(halting: Scene) -> None:
    scene, began, go_on = halting, threading.Event(), threading.Event()

    def slow(arguments: What, context: ToolCallContext) -> str:
        """Act, in a thread, after a while."""
        began.set()
        assert go_on.wait(60)
        return asyncio.run(act("mark", arguments, context))

    async with agent(scene, FunctionTool(slow, What)):
        turn = await scene.start("t1", 'tool=slow({"what":"a"})')
        assert await asyncio.to_thread(began.wait, 20)
        await scene.cancel("t1", turn)
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCancelled)
        go_on.set()
        tool = shown(scene, "t1", turn)["slow"]
        assert (tool.state, tool.code) == ("failed", INDETERMINATE)
        assert "cancelled" in tool.output
        # the next turn's model is told the same
        after = await scene.start("t1", "tokens=2")
        assert isinstance((await scene.done("t1", after)).terminal, TurnCompleted)
        said = [m["content"] for m in scene.model.requests[-1].messages if m["role"] == "tool"]
        assert said == [tool.output]
        async with asyncio.timeout(60):
            while await effects(scene, "t1") != {"mark": 1}:
                await asyncio.sleep(0.02)


async def test_after_a_restore_a_call_has_its_key_again(
    halting: Scene, stack: dict[str, str]
) -> None:
    """The ledger comes back without turn, checkpoints and calls; the log and the world do not."""
    scene, dsn = halting, halting.settings.direct_url
    tools = counting.agent_tools()
    backup = f"{urlsplit(dsn).path[1:]}_backup"
    restored = urlunsplit(urlsplit(dsn)._replace(path=f"/{backup}"))
    async with agent(scene, *tools):  # so that the backup knows where the input topics begin
        await scene.closed(await scene.start("t0", "tokens=1"))
    counts = await asyncpg.connect(stack["database"])
    try:
        await scene.db.close()  # nobody may use the database that is copied
        await counts.execute(f'CREATE DATABASE "{backup}" TEMPLATE "{urlsplit(dsn).path[1:]}"')
        scene.db = await asyncpg.connect(dsn)
        async with agent(scene, *tools):
            both = 'tool=charge({"what":"a"}) tool=mark({"what":"a"})'
            turn = await scene.start("t1", both)
            assert isinstance((await scene.done("t1", turn)).terminal, TurnCompleted)
        assert await effects(scene, "t1") == {"charge": 1, "mark": 1}
        migrate(restored)  # takes it over: its timeline rises
        async with agent(scene, *tools, url=restored):
            await scene.until(lambda: (v := scene.view("t1", turn)) and v.attempts == 2 and v.done)
        assert isinstance(scene.view("t1", turn).terminal, TurnCompleted)
        # what does not honour its key may act again, for the record of its start was lost
        assert await effects(scene, "t1") == {"charge": 1, "mark": 2}
        assert shown(scene, "t1", turn)["charge"].output == "a: charge done"
    finally:
        await scene.db.close()
        await counts.execute(f'DROP DATABASE IF EXISTS "{backup}" WITH (FORCE)')
        await counts.close()
