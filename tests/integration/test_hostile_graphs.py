"""A bag of hostile graphs on one worker: each turn fails by itself, neighbours are served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from turnstream.schemas.records.events import TurnCompleted, TurnFailed

GRAPHS = str(Path(__file__).parent / "graphs" / "hostile.json")

ENDS = {
    "exit": ("graph_error", "SystemExit"),
    "exit in a thread": ("graph_error", "SystemExit"),
    "exit in a task": ("graph_error", "SystemExit"),
    "interrupt": ("graph_error", "KeyboardInterrupt"),
    "cancel": ("graph_error", "NodeCancelledError"),
    "secret": ("graph_error", "ValueError"),
    "lock": ("state_unstorable", ""),
    "large event": ("record_too_large", ""),
    "endless output": ("output_overrun", ""),
    "large state": ("state_unstorable", ""),
}
GOOD = ("many events", "surrogate", "plain")


async def test_hostile_graphs_cost_their_own_turns_only(scene: Any) -> None:
    worker = scene.process("w", LANGGRAPH_JSON=GRAPHS, TURN_TIMEOUT_S="120")
    await worker.ready()
    pid = worker.process.pid
    beside = await scene.start("beside", "tokens=200 rate=20", graph="turnstream-agent")
    await scene.until(lambda: scene.view("beside", beside))
    turns = {
        what: await scene.start(what, what, graph="hostile" if n % 2 else "agent")
        for n, what in enumerate((*ENDS, *GOOD))
    }
    factory = json.dumps({"configurable": {"factory": "exits", "user_id": "forged"}})
    turns["factory"] = await scene.start("factory", "plain", graph="hostile", config=factory)
    for what, turn in turns.items():
        view = await scene.done(what, turn, 240)
        code, shown = {**ENDS, "factory": ("graph_error", "SystemExit")}.get(what, ("", ""))
        if not code:
            assert isinstance(view.terminal, TurnCompleted), (what, view.terminal)
            continue
        assert isinstance(view.terminal, TurnFailed), what
        assert (what, view.terminal.code) == (what, code)
        assert view.terminal.message.startswith(shown)
        assert (await scene.closed(turn))["attempts"] == 1, what
    assert await scene.text_of("surrogate", turns["surrogate"]) == "party \ufffd!"
    assert await scene.text_of("plain", turns["plain"]) == "thread plain"
    view = await scene.done("beside", beside, 120)
    assert isinstance(view.terminal, TurnCompleted)
    assert (view.attempts, view.gaps) == (1, 0)
    assert (worker.process.pid, worker.process.poll()) == (pid, None)
    log = worker.log.read_text()
    assert "hunter2" not in log + str(scene.log)
    assert log.count('"event": "unexpected_error"') >= len(turns) - 7
    assert "hostile.py" in log, "the log has the frames"
    for what in ENDS:  # each thread goes on from its last good state
        after = await scene.start(what, "plain", graph="agent")
        assert isinstance((await scene.done(what, after, 120)).terminal, TurnCompleted), what
