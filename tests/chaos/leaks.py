"""Invariant 8: after the campaign no lease, task, socket, temporary file or connection is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.invariants import Broken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.processes import Process
    from tests.chaos.stage import RealStage

SETTLE_S = 8.0
"""For what closes by itself: idle connections to a model, a lease that was lost."""
SOCKETS_MORE_MAX = 24
"""Sockets beyond those of a fresh process: two pools of 4, idle connections to the model."""
_OF_TURNS = (
    "TurnAttempt",
    "run_turn",
    "_Attempt",
    "GraphRun",
    "Closing",
    "_see_through",
    "Watch.",
    "plain_events",
)
_LEFT = {
    "threads that somebody owns": "SELECT count(*) FROM threads WHERE owner IS NOT NULL",
    "threads with a head": "SELECT count(*) FROM threads WHERE head IS NOT NULL",
    "threads in ready": "SELECT count(*) FROM ready",
    "ends not closed": "SELECT count(*) FROM ended",
    "turns not closed": "SELECT count(*) FROM turns WHERE closed_at IS NULL",
    "in the tally of open turns": "SELECT sum(unclosed) FROM tally",
    # those who reap have to be steady for a while where the last fault made the timeline rise
    "leases of dead workers": "SELECT count(*) FROM workers w WHERE worker_is_dead(w)",
}
_OTHERS = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name <> 'campaign'
"""


async def left_running(stage: RealStage) -> list[Broken]:
    """Look for what is left of the stories while the processes still run."""
    found = [Broken(1, what) for what in stage.broke]
    for what, query in _LEFT.items():
        with contextlib.suppress(AssertionError):
            await stage.until(lambda query=query: _none(stage, query), what, SETTLE_S)
        if count := (await stage.ask(query))[0][0]:
            found.append(Broken(8, f"{stage.name}: {count} {what}"))
    for process in (*stage.workers, *stage.edges):
        found += await _of_process(stage, process)
    return found


async def left_ended(stage: RealStage) -> list[Broken]:
    """End the processes as an operator does, and look for what they left."""
    stage.workers_wanted = 0
    stage.tending = False
    processes = [*stage.workers, *stage.edges]
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            await process.ended(30.0)
        except TimeoutError:
            return [Broken(8, f"{process.name} did not end within 30 s of SIGTERM")]
    found = []
    counted = {"leases": "SELECT count(*) FROM workers", "connections to Postgres": _OTHERS}
    for what, query in counted.items():
        with contextlib.suppress(AssertionError):
            await stage.until(lambda query=query: _none(stage, query), what, SETTLE_S)
        if count := (await stage.ask(query))[0][0]:
            found.append(Broken(8, f"{stage.name}: {count} {what} are left"))
    files = [path.name for path in (stage.folder / "tmp").iterdir()]
    if files:
        found.append(Broken(8, f"{stage.name}: temporary files are left: {files[:10]}"))
    return found


async def _none(stage: RealStage, query: str) -> bool:
    return not (await stage.ask(query))[0][0]


async def _of_process(stage: RealStage, process: Process) -> list[Broken]:
    fresh = stage.fresh.get(process.kind)
    if fresh is None:
        return []
    problems: list[str] = []
    for _ in range(int(SETTLE_S)):
        problems = list(_grown(process, fresh, await tasks_of(process)))
        if not problems:
            break
        await asyncio.sleep(1.0)
    return [Broken(8, f"{process.name}: {problem}") for problem in problems]


def _grown(process: Process, fresh: tuple[Counter[str], int], tasks: Counter[str]) -> Iterator[str]:
    before, sockets_before = fresh
    for name, count in tasks.items():
        if any(part in name for part in _OF_TURNS):
            yield f"{count} tasks {name} of turns that are over"
        elif count > 2 * before[name] + 8:
            yield f"{count} tasks {name}, {before[name]} in a fresh process"
    sockets = sockets_of(process)
    if sockets > sockets_before + SOCKETS_MORE_MAX:
        yield f"{sockets} sockets, {sockets_before} in a fresh process"


async def tasks_of(process: Process) -> Counter[str]:
    """Ask a process for its tasks, by the name of what they run."""
    told = process.log.with_suffix(".tasks")
    told.unlink(missing_ok=True)
    os.kill(process.pid, signal.SIGUSR1)
    async with asyncio.timeout(10.0):
        while not told.exists() or not told.read_text():
            await asyncio.sleep(0.02)
    return Counter(json.loads(told.read_text()))


def sockets_of(process: Process) -> int:
    """Count a process's open sockets."""
    count = 0
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += entry.readlink().name.startswith("socket:")
    return count
