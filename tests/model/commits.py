"""Transactions of an attempt that holds its thread (W5 to W7, T1, T2).

What the project runs: `connectors/postgres/checkpoints/statements.py`,
`connectors/postgres/sql/tool_calls.sql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.ledger import (
    CancelAhead,
    decide,
    keep_all,
    keep_path,
    note_said,
    transaction,
)
from tests.model.records import Outcome, text_of
from tests.model.rows import Entry, Nested
from turnstream.schemas.fold.fold import covers

if TYPE_CHECKING:
    from tests.model.ledger import Ledger
    from tests.model.rows import State, Turn, Write
    from turnstream.schemas.records.events import Keep


@transaction
def put_write(ledger: Ledger, write: Write, n: int) -> tuple[Keep, ...]:
    """Store what a finished task wrote (W5)."""
    ledger.compare(write.epoch)
    ledger.witness(write.epoch, "a task's writes")
    row = ledger.turns[write.turn]
    at = row.origin, write.path
    if at in ledger.finished:
        ledger.note("again", f"a finished task ran again: {write.path}")
    ledger.finished.add(at)
    ledger.pending[at] = write
    ledger.nested.pop(at, None)
    note_said(row, write.epoch, n)
    return keep_path(row, write.path, n)


@transaction
def put_nested(
    ledger: Ledger, epoch: int, turn: str, path: str, n: int
) -> tuple[Nested, tuple[Keep, ...]]:
    """Store a nested graph's checkpoint: one more inner step of the task at `path` (W5n)."""
    ledger.compare(epoch)
    ledger.witness(epoch, "a nested checkpoint")
    row = ledger.turns[turn]
    old = ledger.nested.get((row.origin, path), Nested())
    inner = {
        at: write
        for at, write in ledger.pending.items()
        if at[0] == row.origin and covers(path + "|", at[1])
    }
    if any(write.base != old for write in inner.values()):
        ledger.note("state", "a nested checkpoint holds a write that was made on another state")
    for at in inner:
        del ledger.pending[at]
    events = tuple(event for write in inner.values() for event in write.events)
    new = ledger.nested[row.origin, path] = Nested(old.step + 1, old.events + events)
    note_said(row, epoch, n)
    return new, keep_path(row, path + "|", n)


@transaction
def commit_step(
    ledger: Ledger, epoch: int, turn: str, n: int, *, last: bool
) -> tuple[State, Outcome | None]:
    """Add a step to the state; the last step's transaction is the outcome's (W6, W7)."""
    ledger.compare(epoch)
    row = ledger.turns[turn]
    if last:
        _yield_to_cancel(row, "completed")
    ledger.witness(epoch, "a step")
    mine = {at: write for at, write in ledger.pending.items() if at[0] == row.origin}
    if any(write.base != ledger.state for write in mine.values() if "|" not in write.path):
        ledger.note("state", "a checkpoint holds a write that was made on another state")
    ledger.state += (Entry(turn, tuple(mine.values())),)
    _clear(ledger, row)
    note_said(row, epoch, n)
    keep_all(row, n)
    return ledger.state, decide(
        ledger, row, Outcome("completed", _answer(ledger, row))
    ) if last else None


def _answer(ledger: Ledger, row: Turn) -> str:
    writes = [write for entry in ledger.state for write in entry.writes]
    events = [event for write in writes for event in write.events if event.turn_id == row.turn]
    return text_of(events)


@transaction
def commit_outcome(
    ledger: Ledger, epoch: int, turn: str, outcome: Outcome, n: int, asks: frozenset[str]
) -> Outcome:
    """Store an outcome other than `completed`, with the text that is visible (W7)."""
    ledger.compare(epoch)
    row = ledger.turns[turn]
    _yield_to_cancel(row, outcome.kind)
    ledger.witness(epoch, "an outcome")
    note_said(row, epoch, n)
    keep_all(row, n)
    if outcome.kind == "interrupted":
        ledger.asks = turn, asks
    elif outcome.kind == "rollback":
        ledger.state = ledger.state[: row.begun]
    else:
        ledger.state += (Entry(turn, (), outcome.text),)
    return decide(ledger, row, outcome)


def _yield_to_cancel(row: Turn, kind: str) -> None:
    """Store nothing but a rollback after one was asked for, and no question after a cancel (W7)."""
    asks_in_vain = kind == "interrupted" and row.cancel
    if asks_in_vain or (row.cancel == "rollback" and kind != "rollback"):
        raise CancelAhead


def _clear(ledger: Ledger, row: Turn) -> None:
    for rows in (ledger.pending, ledger.nested):
        for at in [at for at in rows if at[0] == row.origin]:
            del rows[at]


@transaction
def start_tool(ledger: Ledger, epoch: int, call: tuple[str, str]) -> str:
    """Record a call before it is made; return what the ledger held of it, "" if nothing (T1)."""
    ledger.compare(epoch)
    ledger.witness(epoch, "a tool's start")
    known = ledger.tools.get(call, "")
    ledger.tools.setdefault(call, "started")
    return known


@transaction
def end_tool(ledger: Ledger, epoch: int, call: tuple[str, str], result: str) -> None:
    """Record a call's result (T2)."""
    ledger.compare(epoch)
    ledger.witness(epoch, "a tool's result")
    if ledger.tools.get(call) not in ("started", result):
        ledger.note("tools", f"a recorded result was replaced: {call}")
    ledger.tools[call] = result


@transaction
def raise_rev(ledger: Ledger, subject: str) -> int:
    """Change the subject of a thread event; return its new `rev` (F6)."""
    ledger.revs[subject] = ledger.above(ledger.revs.get(subject, 0))
    return ledger.revs[subject]
