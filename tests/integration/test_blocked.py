"""Graphs that take the loop or the memory of their worker: their neighbours only pause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from turnstream.schemas.fold.fold import Verdict
from turnstream.schemas.records.events import TurnCompleted, TurnFailed

GRAPHS = str(Path(__file__).parent / "graphs" / "blocking.json")


async def test_a_graph_that_blocks_the_loop_fails_and_its_neighbours_pause(scene: Any) -> None:
    """Two workers, so that a lease that is lost would be seen at once."""
    workers = [
        scene.process(f"w{i}", LANGGRAPH_JSON=GRAPHS, GRAPH_BLOCK_TIMEOUT_S="4.5") for i in range(2)
    ]
    for worker in workers:
        await worker.ready()
    streams = {f"n{i}": await scene.start(f"n{i}", "tokens=320 rate=20") for i in range(6)}
    await scene.until(lambda: all(scene.view(*turn) for turn in streams.items()))
    # longer than a lease's time, shorter than the limit: it computes, and others wait
    paused = await scene.start("paused", "pause 4", graph="blocking")
    assert isinstance((await scene.done("paused", paused)).terminal, TurnCompleted)
    turn = await scene.start("blocked", "sleep", graph="blocking")
    view = await scene.done("blocked", turn)
    assert isinstance(view.terminal, TurnFailed)
    assert (view.terminal.code, view.terminal.retryable) == ("graph_blocked", False)
    assert "blocked its worker for" in view.terminal.message
    for thread, turn in streams.items():
        view = await scene.done(thread, turn, 120)
        assert isinstance(view.terminal, TurnCompleted), view.terminal
        assert (view.attempts, view.gaps) == (1, 0)
    assert Verdict.REWOUND not in scene.verdicts
    logs = "".join(worker.log.read_text() for worker in workers)
    assert "lease_lost" not in logs
    assert '"state": "holding"' not in logs
    assert logs.count('"event": "graph_blocked"') == 1
    assert "blocking.py" in logs, "the log names what ran"


@pytest.mark.parametrize("what", ["compute", "wait", "stubborn", "reducer"])
async def test_whatever_blocks_is_stopped_and_the_thread_goes_on(scene: Any, what: str) -> None:
    """In this process: a signal stops it, also where the code catches everything."""
    async with scene.worker(langgraph_json=Path(GRAPHS), graph_block_timeout_s=1.0):
        turn = await scene.start("t", what, graph="blocking")
        view = await scene.done("t", turn)
        assert isinstance(view.terminal, TurnFailed)
        assert view.terminal.code == "graph_blocked"
        after = await scene.start("t", "pause 0", graph="blocking")
        assert isinstance((await scene.done("t", after)).terminal, TurnCompleted)
        assert await scene.text_of("t", after) == "done"


async def test_code_that_cannot_be_stopped_costs_its_worker(scene: Any, tmp_path: Path) -> None:
    """The process starts anew by itself, and the attempt counts: a fourth would park the turn."""
    worker = scene.process(
        "w", LANGGRAPH_JSON=GRAPHS, GRAPH_BLOCK_TIMEOUT_S="0.5", LOOP_BLOCK_MAX_S="1"
    )
    await worker.ready()
    turn = await scene.start("bad", f"unstoppable {tmp_path / 'seen'}", graph="blocking")
    assert isinstance((await scene.done("bad", turn)).terminal, TurnCompleted)
    assert (await scene.closed(turn))["attempts"] == 2
    assert worker.process.poll() is None
    assert worker.log.read_text().count('"worker_replaced"') == 1


async def test_a_worker_above_its_memory_limit_hands_over_and_starts_anew(
    scene: Any, tmp_path: Path
) -> None:
    """The turns that it still had count an attempt: one that does it again and again is parked."""
    worker = scene.process(
        "w", LANGGRAPH_JSON=GRAPHS, WORKER_MEMORY_MAX_MIB="550", DRAIN_TIMEOUT_S="4"
    )
    await worker.ready()
    streams = {f"n{i}": await scene.start(f"n{i}", "tokens=20 rate=20") for i in range(3)}
    await scene.until(lambda: all(scene.view(*turn) for turn in streams.items()))
    turn = await scene.start("hoard", f"hoard {tmp_path / 'seen'}", graph="blocking")
    for thread, stream in streams.items():
        assert isinstance((await scene.done(thread, stream)).terminal, TurnCompleted)
    assert isinstance((await scene.done("hoard", turn)).terminal, TurnCompleted)
    assert (await scene.closed(turn))["attempts"] == 2
    assert worker.process.poll() is None, "the same process goes on as a new one"
    log = worker.log.read_text()
    assert log.count('"memory_exceeded"') == 1
    assert log.count('"worker_ready"') == 2
