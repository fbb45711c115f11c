"""Transactions that give a thread to an attempt, or take it back (W1, W9).

What the project runs: `connectors/postgres/sql/claim.sql`, `connectors/postgres/sql/finish.sql`,
`connectors/postgres/sql/workers.sql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.ledger import transaction
from tests.model.records import Outcome
from tests.model.rows import Claim

if TYPE_CHECKING:
    from tests.model.ledger import Ledger
    from tests.model.rows import Turn


def take(ledger: Ledger, worker: object) -> Claim:
    """Give the thread to a worker, for its head or its next turn (W1)."""
    if ledger.owner is not None:
        ledger.note("order", "a thread with an owner is given to another")
    row = ledger.turns[ledger.head] if ledger.head else ledger.waiting()[0]
    ledger.owner, ledger.ready = worker, False
    ledger.epoch = ledger.above(ledger.epoch)
    again = row.started
    if not again:
        _begin(ledger, row)
    elif row.outcome is None and row.attempts >= ledger.attempts_max:
        row.outcome, row.decided_by_claim = Outcome("failed"), True
    row.attempts += 1
    pending = {path: one for (origin, path), one in ledger.pending.items() if origin == row.origin}
    nested = {path: one for (origin, path), one in ledger.nested.items() if origin == row.origin}
    writes = [write for entry in ledger.state for write in entry.writes]
    groups = [one.events for one in (*writes, *pending.values())]
    groups += [one.events for one in nested.values()]
    events = {event.event_id: event for group in groups for event in group}
    return Claim(
        row.turn, row.origin, ledger.epoch, again, row.outcome, row.decided_by_claim,
        row.base, row.keep_n, row.high_n, row.keep,
        ledger.state, pending, nested, ledger.answers.get(row.origin, frozenset()),
        events=tuple(event for event in events.values() if event.turn_id == row.turn),
        step=sum(
            entry.text is None and ledger.turns[entry.turn].origin == row.origin
            for entry in ledger.state
        ),
    )  # fmt: skip


def _begin(ledger: Ledger, row: Turn) -> None:
    """Settle, with the turn's first claim, which question it answers or drops (W1)."""
    row.started, row.begun, ledger.head = True, len(ledger.state), row.turn
    ledger.order += (row.turn,)
    if not row.resumes:
        ledger.asks = None
    elif ledger.asks is not None and ledger.asks[0] == row.resumes:
        asked, paths = ledger.asks
        if asked != row.resumes:
            ledger.note("state", f"{row.turn} answers a question that it does not name")
        row.origin = ledger.turns[asked].origin
        ledger.answers[row.origin] = ledger.answers.get(row.origin, frozenset()) | paths
        ledger.asks = None
    else:
        row.outcome, row.decided_by_claim = Outcome("rejected"), True


@transaction
def claim(ledger: Ledger, worker: object) -> Claim | None:
    """Claim the thread from `ready`, unless it has no turn to run any more (W1)."""
    if ledger.ready and ledger.owner is None and ledger.runnable():
        return take(ledger, worker)
    ledger.ready = False
    return None


@transaction
def finish(ledger: Ledger, epoch: int, turn: str, log_length: int, worker: object) -> Claim | None:
    """Close the turn and give the thread to `worker` or to `ready`, or leave it idle (W9)."""
    ledger.compare(epoch)
    ledger.witness(epoch, "a finish")
    row = ledger.turns[turn]
    row.closed, row.closed_at = True, log_length
    ledger.head, ledger.owner, ledger.ready = "", None, False
    if ledger.waiting() and worker is not None:
        return take(ledger, worker)
    ledger.ready = bool(ledger.waiting())
    return None


@transaction
def release(ledger: Ledger, epoch: int, turn: str) -> None:
    """Give the thread back in the middle of its turn."""
    ledger.compare(epoch)
    ledger.witness(epoch, "a release")
    ledger.owner, ledger.ready = None, True
    ledger.turns[turn].attempts -= 1


@transaction
def reap(ledger: Ledger) -> None:
    """Take the thread from an owner whose lease is over."""
    ledger.owner, ledger.ready = None, True
