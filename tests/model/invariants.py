"""What must hold when nothing more can happen: by name, what went wrong.

ends      every reader ends with the ledger's outcome, and has it when the turn closes
text      what is visible in the end is what was committed
gaps      a reader of the whole log misses no `n` and no start of an attempt
vanished  visible items vanish only where an attempt begins, a task is retried, or a turn is over
repeated  a record that is read twice changes nothing
lost      every accepted turn is admitted, ends and is closed
fence     no transaction of an attempt that lost its thread is written (the ledger notes it)
state     nothing is built on another state than the one that it started from
found     right after an attempt's start a reader shows what its owner found committed
committed when a task's writes are committed, a reader shows its events already
partial   a reader of the whole log is never partial
again     a finished task is not run again in its chain
outcome   no turn has two outcomes; a cancel that came before its turn ends it
order     no thread is left over, each has one owner, turns begin in order
late      a reader that begins in mid-log sees the end, and shows it whole or as partial
tools     no tool takes effect twice, unless it has no key and the ledger lost its record
board     of the thread events the newest `rev` that landed is shown
said      an end that is said again in a later timeline is not shown again
rollback  a turn that was to be rolled back is; one that was to stop asks nothing
client    a client that begins between two turns is sent what begins later, and nothing else
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from tests.model.rows import Cancel
from tests.model.shown import violations_shown
from turnstream.schemas.records.events import AttemptStarted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.model.world import World

Violation: TypeAlias = tuple[str, str]


def broken(world: World) -> dict[str, str]:
    """Return what does not hold, by invariant."""
    found = dict(world.ledger.broken)
    for check in (_lost, _order, _again, _stopped, _tools, violations_shown):
        for invariant, what in check(world):
            found.setdefault(invariant, what)
    return found


def _lost(world: World) -> Iterator[Violation]:
    ledger = world.ledger
    for command in (one for commands in world.input for one in commands):
        if not isinstance(command, Cancel) and command.turn not in ledger.turns:
            yield "lost", f"an accepted turn was lost: {command.turn}"
    for name, row in ledger.turns.items():
        if name in ledger.early and row.outcome and row.outcome.kind != "cancel":
            yield "outcome", f"a cancel that came before {name} was lost"
        if not row.closed:
            yield "lost", f"nothing more can happen and {name} is not closed"


def _order(world: World) -> Iterator[Violation]:
    ledger = world.ledger
    place = {name: i for i, name in enumerate(ledger.order)}
    if len(place) != len(ledger.order):
        yield "order", f"a turn began twice: {ledger.order}"
    rows = [ledger.turns[name] for name in ledger.order]
    plain = [row.seq for row in rows if not row.front]
    if plain != sorted(plain):
        yield "order", f"turns began out of order: {ledger.order}"
    for row in rows:
        if any(place.get(other, len(place)) < place[row.turn] for other in row.passes):
            yield "order", f"{row.turn} began after one that was queued behind it"
    if world.restored:
        return
    starts: dict[str, int] = {}
    for at, record in enumerate(world.log):
        if isinstance(record, AttemptStarted):
            starts.setdefault(record.turn_id, at)
    for before, row in pairwise(rows):
        if before.closed and starts.get(row.turn, before.closed_at) < before.closed_at:
            yield "state", f"{row.turn} started before {before.turn} was closed"


def _again(world: World) -> Iterator[Violation]:
    ledger = world.ledger
    for row in ledger.turns.values():
        if row.outcome is None or row.outcome.kind != "completed" or not row.closed:
            continue
        done = [
            write.path
            for entry in ledger.state
            if entry.text is None and ledger.turns[entry.turn].origin == row.origin
            for write in entry.writes
        ]
        if len(done) != sum(map(len, world.plans[row.origin])) or len(set(done)) != len(done):
            yield "again", f"{row.turn} completed with {done}"


def _stopped(world: World) -> Iterator[Violation]:
    for row in world.ledger.turns.values():
        kind = row.outcome.kind if row.outcome and not row.decided_by_claim else ""
        if kind == "interrupted" and row.causes:
            yield "rollback", f"{row.turn} asks although it was to stop"
        if kind and row.started and "rollback" in row.causes and kind != "rollback":
            yield "rollback", f"{row.turn} is {kind} although it was to be rolled back"


def _tools(world: World) -> Iterator[Violation]:
    for call, count in world.effects.items():
        if count > 1 and not world.restored:
            yield "tools", f"{count} effects of {call}"
