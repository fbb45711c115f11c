"""Turns that emit without end, or hold ever more memory, beside turns that do not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from turnstream.schemas.records.events import TurnCompleted, TurnFailed

GRAPHS = str(Path(__file__).parent / "graphs" / "flooding.json")
FLOODS = {
    "agent": "tokens=100000",
    "openai": "openai 100000",
    "model": "model 100000",
    "writer": "writer 100000",
}
GROWTH_MIB_MAX = 150
"""Of a worker's peak over four floods; without the limit it grew by 350."""


def peak_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


async def do_not_wait(scene: Any) -> None:
    """Let threads that wait after a broken attempt, longer each time, run at once."""
    while True:
        await scene.db.execute("UPDATE ready SET at = now() WHERE at > now()")
        await asyncio.sleep(0.5)


async def test_a_turn_that_hoards_memory_is_parked_and_its_neighbours_go_on(scene: Any) -> None:
    """Each attempt takes its worker above the limit: it hands over and starts anew, four times."""
    worker = scene.process(
        "w", LANGGRAPH_JSON=GRAPHS, WORKER_MEMORY_MAX_MIB="450", DRAIN_TIMEOUT_S="1"
    )
    await worker.ready()
    streams = {f"n{i}": await scene.start(f"n{i}", "tokens=60 rate=20") for i in range(3)}
    await scene.until(lambda: all(scene.view(*turn) for turn in streams.items()))
    turn = await scene.start("hoard", "hoard 600", graph="flooding")
    hastening = asyncio.create_task(do_not_wait(scene))
    try:
        view = await scene.done("hoard", turn, 240)
    finally:
        hastening.cancel()
    assert isinstance(view.terminal, TurnFailed)
    assert view.terminal.code == "poisoned"
    assert view.terminal.message.startswith("parked after 4 attempts")
    assert "its worker held" in view.terminal.message
    assert "450 are allowed" in view.terminal.message
    after = await scene.start("hoard", "tokens=3", graph="turnstream-agent")
    assert isinstance((await scene.done("hoard", after)).terminal, TurnCompleted)
    for thread, stream in streams.items():
        view = await scene.done(thread, stream, 120)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
        assert view.gaps == 0
        assert len((await scene.text_of(thread, stream)).split()) == 60
    assert worker.process.poll() is None, "the same process goes on as a new one"
    log = worker.log.read_text()
    assert log.count('"memory_exceeded"') == 4
    assert log.count('"worker_ready"') == 5


async def test_a_flood_of_tokens_ends_its_own_turn(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a model server, by a model of a brought graph, and by a graph's stream writer."""
    monkeypatch.setenv("FLOOD_URL", scene.model.url)
    worker = scene.process("w", LANGGRAPH_JSON=GRAPHS, TURN_EVENTS_MAX="10000")
    await worker.ready()
    beside = await scene.start("beside", "tokens=400 rate=20")
    warm = await scene.start("warm", "openai 3", graph="flooding")
    await scene.done("warm", warm)
    await scene.until(lambda: scene.view("beside", beside))
    before = peak_mib(worker.process.pid)
    turns = {
        what: await scene.start(what, text, graph="agent" if what == "agent" else "flooding")
        for what, text in FLOODS.items()
    }
    for what, turn in turns.items():
        view = await scene.done(what, turn, 120)
        assert isinstance(view.terminal, TurnFailed), what
        assert (what, view.terminal.code) == (what, "output_overrun")
        assert "TURNSTREAM_TURN_EVENTS_MAX" in view.terminal.message
        assert (await scene.closed(turn))["attempts"] == 1
    assert peak_mib(worker.process.pid) - before < GROWTH_MIB_MAX
    for what in turns:  # each thread goes on
        after = await scene.start(what, "tokens=3", graph="turnstream-agent")
        assert isinstance((await scene.done(what, after)).terminal, TurnCompleted), what
    view = await scene.done("beside", beside, 120)
    assert isinstance(view.terminal, TurnCompleted)
    assert (view.attempts, view.gaps) == (1, 0)
