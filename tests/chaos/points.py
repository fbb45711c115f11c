"""The places where a worker can be struck, by name, and how its process notices that it is there.

Used in worker processes of the campaign only: `install` wraps methods of the classes that pass
these places, so that production code knows nothing of it. A point is armed by a file
`armed/<thread>@<point>` that says what is to be done there, as `<action> <count>`: at the count-th
time that any worker's process is there. Whoever takes the file away (a rename, so one process) does
it and leaves it under `hit/`, with its own name behind; the file's time is that of the blow.

Actions: `kill` (-9), `freeze` (SIGSTOP), `term` (SIGTERM), `block:S` (the event loop, S seconds).
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnstream.connectors.postgres.checkpoints.fenced_commits import FencedCommits
from turnstream.connectors.postgres.ledger.ledger import Ledger
from turnstream.connectors.postgres.ledger.rows import Admitted, Finish
from turnstream.streams.worker.attempt import TurnAttempt
from turnstream.streams.worker.emitter import TurnEmitter
from turnstream.streams.worker.turn_log import TurnLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from turnstream.connectors.postgres.ledger.rows import Closed

POINTS = {
    "admitted": "after admission, in the intake's process",
    "ended": "between the ack of an end that nobody claimed and its closing",
    "claimed": "after the claim, before the fence was said",
    "fenced": "after the fence came into the log",
    "token": "in the middle of a message's tokens",
    "tool-begun": "in a tool, before its effect",
    "tool": "in a tool, its effect done and its result not given back",
    "commit": "before a commit's transaction is sent, all that it covers acknowledged",
    "writes": "after the writes of one task of a step were committed",
    "step": "after a step of the root graph was committed",
    "nested": "in a nested graph, an inner step committed",
    "outcome": "between the outcome's commit and the terminal",
    "terminal": "between the terminal's ack and the closing of the turn",
}


@dataclass(slots=True)
class _Here:
    """This process: where points are armed, its name, and how often it was at each."""

    folder: Path = Path()
    name: str = ""
    seen: Counter[str] = field(default_factory=Counter)


_here = _Here()


def install(folder: Path, name: str) -> None:
    """Watch the points in this process, which is the worker of this name."""
    _here.folder, _here.name = folder, name
    _watch_ledger()
    _watch_attempt()
    _watch_emitter()
    _watch_commits()


def reach(point: str, thread_key: str) -> None:
    """Do what is armed for this place; returns, if at all, when that is over."""
    at = f"{thread_key.partition('/')[2]}@{point}"
    armed = _here.folder / "armed" / at
    try:
        said = armed.read_text()
    except FileNotFoundError:
        return
    action, _, count = said.partition(" ")
    _here.seen[at] += 1
    if _here.seen[at] < int(count or 1):
        return
    try:
        hit = _here.folder / "hit" / at
        armed.write_text(f"{said} {_here.name}")
        armed.rename(hit)
    except FileNotFoundError:
        return
    _act(action)


def _act(action: str) -> None:
    what, _, seconds = action.partition(":")
    signals = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "term": signal.SIGTERM}
    if what in signals:
        os.kill(os.getpid(), signals[what])
    elif what == "block":
        time.sleep(float(seconds))


def _watch_ledger() -> None:
    admit = Ledger.admit

    async def watched(self: Ledger, *given: Any, **more: Any) -> Any:
        admitted = await admit(self, *given, **more)
        if isinstance(admitted, Admitted):
            for command in given[4]:
                reach("admitted", command.thread_key)
        return admitted

    close = Ledger.close_ended

    async def watched_close(self: Ledger, items: Sequence[Closed], timeline: int) -> int:
        for item in items:
            reach("ended", item.thread_key)
        return await close(self, items, timeline)

    Ledger.admit = watched  # type: ignore[method-assign]
    Ledger.close_ended = watched_close  # type: ignore[method-assign]


def _watch_attempt() -> None:
    run = TurnAttempt.run

    async def watched(self: TurnAttempt) -> Any:
        reach("claimed", self.claim.thread_key)
        finish = await run(self)
        if isinstance(finish, Finish):
            reach("terminal", self.claim.thread_key)
        return finish

    TurnAttempt.run = watched  # type: ignore[method-assign]


def _watch_emitter() -> None:
    tokens, landed = TurnEmitter.tokens, TurnLog.landed

    def watched_tokens(self: TurnEmitter, **said: Any) -> None:
        tokens(self, **said)
        reach("token", self.log.key.decode())

    def watched_landed(self: TurnLog, n: int, offset: int) -> None:
        first = self.first_off is None
        landed(self, n, offset)
        if first:
            reach("fenced", self.key.decode())

    TurnEmitter.tokens = watched_tokens  # type: ignore[method-assign]
    TurnLog.landed = watched_landed  # type: ignore[method-assign]


def _watch_commits() -> None:
    send = FencedCommits._send_batch

    async def watched(self: FencedCommits, batch: Any, n: int, end: Any) -> None:
        reach("commit", self._hold.thread_key)
        await send(self, batch, n, end)
        if end is not None:
            point = "outcome"
        elif any(item.root for item in batch):
            point = "step"
        elif any(item.keep.endswith("|") for item in batch):
            point = "nested"
        else:
            point = "writes"
        reach(point, self._hold.thread_key)

    FencedCommits._send_batch = watched  # type: ignore[method-assign]
