"""Tools that count their own effects, and workers that die or freeze around their calls.

Threads are named after the place where their turn halts: see `counting_worker.py`. All turns are
brought to their places on one worker, which then is killed (-9) or stopped; another goes on.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from turnstream.schemas.events import AttemptStarted, TurnCompleted
from turnstream.schemas.transcript import transcript

if TYPE_CHECKING:
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

    await scene.until(lambda: all(there(thread) for thread in threads), 60)


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


@pytest.mark.parametrize("graph", ["agent", "effects", "effects_nested"])
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
    await halted(scene, list(cases))
    await halted(scene, [parallel], len(KINDS))
    first.kill()
    (scene.folder / "open").touch()
    await worker(scene, "second").ready()
    for thread, turn in turns.items():
        view = await scene.done(thread, turn, 40)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
        assert view.attempts == 2
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
        view = await scene.done(thread, turn, 40)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
    frozen.process.send_signal(signal.SIGCONT)
    begun = [thread for thread, (_, place) in cases.items() if place == "begun"]

    async def woken() -> bool:
        return all([(await effects(scene, thread)).total() for thread in begun])

    async with asyncio.timeout(20):  # what was about to act acts now
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
