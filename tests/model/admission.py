"""Transactions of intakes, and of workers that publish unclaimed ends (A1 to A5).

What the project runs: `connectors/postgres/sql/admit.sql`, `connectors/postgres/sql/ended.sql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.model.claims import take
from tests.model.ledger import transaction
from tests.model.records import Outcome
from tests.model.rows import Cancel, Start, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.model.ledger import Ledger
    from tests.model.rows import Claim, Command, Resume


class Admitted(NamedTuple):
    """What a batch came to: turns that ended unclaimed, and the admitting worker's claim."""

    decided: tuple[str, ...]
    claim: Claim | None


@transaction
def admit(
    ledger: Ledger, partition: int, at: int, batch: Sequence[Command], worker: object
) -> Admitted | None:
    """Take in a batch that begins at position `at`; None where the ledger's is another (A1)."""
    if ledger.positions[partition] != at:
        return None
    ledger.positions[partition] = at + len(batch)
    decided: list[str] = []
    for command in batch:
        if isinstance(command, Cancel):
            decided += cancel_turn(ledger, command)
        elif command.turn not in ledger.turns:
            decided += insert_turn(ledger, command)
    if ledger.owner is None and not ledger.ready and ledger.runnable():  # A4
        if worker is not None:
            return Admitted(tuple(decided), take(ledger, worker))
        ledger.ready = True
    return Admitted(tuple(decided), None)


def cancel_turn(ledger: Ledger, command: Cancel) -> list[str]:
    """Stop a turn, or keep the cancel for it; return the turn if it ended so (A3)."""
    row = ledger.turns.get(command.turn)
    if row is None:
        ledger.early.add(command.turn)
        return []
    if row.outcome is not None:
        return []
    if row.turn == ledger.head:
        stop(row, command.cause)
        return []
    row.outcome = Outcome("cancel")
    return [row.turn]


def insert_turn(ledger: Ledger, command: Start | Resume) -> list[str]:
    """Admit a new turn; return it if it has its outcome already (A2)."""
    start = command if isinstance(command, Start) else Start(command.turn)
    open_turns = [turn for turn in ledger.turns.values() if turn.outcome is None]
    ledger.seq += 1
    row = Turn(
        command.turn,
        ledger.seq,
        command.turn,
        resumes="" if isinstance(command, Start) else command.resumes,
        front=start.policy in ("interrupt", "rollback"),
    )
    ledger.turns[row.turn] = row
    if row.turn in ledger.early:
        row.outcome = Outcome("cancel")
    elif not start.known:
        row.outcome = Outcome("failed")
    elif start.policy == "reject" and open_turns:
        row.outcome = Outcome("rejected")
    elif start.policy in ("interrupt", "rollback"):
        row.passes = tuple(t.turn for t in open_turns if not t.started and not t.front)
        head = ledger.turns.get(ledger.head)
        if head is not None and head.outcome is None:
            stop(head, start.policy)
    return [row.turn] if row.outcome else []


def stop(row: Turn, cause: str) -> None:
    """Tell a turn to stop: the first cause counts, but a rollback overrides the others (A3)."""
    row.causes += (cause,)
    row.cancel = cause if cause == "rollback" else row.cancel or cause


@transaction
def close_ended(ledger: Ledger, turn: str, timeline: int, log_length: int) -> None:
    """Close a turn whose unclaimed end is in the log (A5)."""
    row = ledger.turns.get(turn)
    if row is not None and not row.closed and timeline == ledger.timeline:
        row.closed, row.closed_at = True, log_length
