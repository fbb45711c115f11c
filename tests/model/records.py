"""What stands in the modelled log: the project's own records, with short texts.

The reader is not modelled. Every schedule is folded by `schemas/fold/fold.py` itself. Clients that
begin between turns read by `streams/edge/follow/reader.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from turnstream.schemas.fold.fold import TIMELINE_BITS
from turnstream.schemas.records.events import (
    AttemptStarted,
    CustomEmitted,
    Event,
    InputResolved,
    Interrupt,
    TaskRetried,
    TurnCancelled,
    TurnCompleted,
    TurnEnded,
    TurnFailed,
    TurnInterrupted,
    TurnRejected,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.model.rows import Claim
    from turnstream.schemas.records.events import Keep

LIFE = 1 << TIMELINE_BITS
"""Epochs of one timeline."""

Log: TypeAlias = list[Event]


class Outcome(NamedTuple):
    """What a turn ended with; `text` is what it had said, in the order of `n`."""

    kind: str
    text: str = ""


class Envelope(NamedTuple):
    """The fields that every record has."""

    turn: str
    epoch: int
    n: int
    path: str = ""

    def fields(self) -> dict[str, Any]:
        """Return the envelope's fields under their names in the records."""
        return {
            "event_id": f"{self.turn}-{self.epoch}-{self.n}", "tenant": "t", "thread_id": "x",
            "turn_id": self.turn, "epoch": self.epoch, "n": self.n, "path": self.path,
        }  # fmt: skip


def _record(kind: type[Event], at: Envelope, **fields: Any) -> Event:
    return kind(**at.fields(), **fields)


def started(claim: Claim) -> Event:
    """Return the fence of an attempt (W2)."""
    by_attempt = claim.outcome is not None and not claim.decided_by_claim
    reason = "decided" if by_attempt else "again" if claim.again else "first"
    return _record(
        AttemptStarted,
        Envelope(claim.turn, claim.epoch, claim.high_n),
        reason=reason,
        base=claim.base,
        keep_n=claim.keep_n,
        high_n=claim.high_n,
        keep=list(claim.keep),
    )


def said(at: Envelope, text: str) -> Event:
    """Return one event of a task."""
    return _record(CustomEmitted, at, name="said", payload=text)


def retried(at: Envelope, keep: Sequence[Keep]) -> Event:
    """Return the record that takes back what a task has said (F4)."""
    return _record(TaskRetried, at, keep=list(keep))


def terminal(at: Envelope, outcome: Outcome) -> Event:
    """Return the terminal of a claimed turn (W8)."""
    kind, text = outcome
    if kind == "completed":
        return _record(TurnCompleted, at, text=text)
    if kind == "failed":
        return _record(TurnFailed, at, code="failed", text=text)
    if kind == "rejected":
        return _record(TurnRejected, at, reason=text)
    if kind == "interrupted":
        asked = Interrupt(id=at.turn, payload=text)
        return _record(TurnInterrupted, at, interrupts=[asked])
    return _record(TurnCancelled, at, cause=kind, text=text)


def ended(turn: str, epoch: int, outcome: Outcome) -> Event:
    """Return the one record of a turn that was never claimed (A5)."""
    kind = outcome.kind if outcome.kind in ("failed", "rejected") else "cancelled"
    return _record(TurnEnded, Envelope(turn, epoch, 1), outcome=kind, code=outcome.kind)


def resolved(subject: str, rev: int) -> Event:
    """Return a thread event (F6)."""
    return _record(InputResolved, Envelope("", 0, 0), interrupt_id=subject, rev=rev)


def outcome_of(end: Event | None) -> Outcome | None:
    """Return the outcome that a terminal carries."""
    match end:
        case TurnCompleted():
            return Outcome("completed", end.text)
        case TurnFailed():
            return Outcome("failed", end.text)
        case TurnRejected():
            return Outcome("rejected", end.reason)
        case TurnInterrupted():
            return Outcome("interrupted", end.interrupts[0].payload)
        case TurnCancelled():
            return Outcome(end.cause, end.text)
        case TurnEnded():
            return Outcome(end.code)
    return None


def text_of(events: Sequence[Event]) -> str:
    """Return what the events say, in the order of `n`."""
    said_by = [event for event in events if isinstance(event, CustomEmitted)]
    return " ".join(event.payload for event in sorted(said_by, key=lambda event: event.n))


def brief(record: Event) -> str:
    """Return a record in a few words."""
    words = [
        type(record).__name__,
        record.turn_id,
        short(record.epoch),
        f"n={record.n}",
        record.path,
    ]
    if isinstance(record, AttemptStarted):
        words += [record.reason, f"base={short(record.base)}", f"keep_n={record.keep_n}"]
    if isinstance(record, (AttemptStarted, TaskRetried)):
        words += [f"keep={entry.path}<={entry.n}" for entry in record.keep]
    return " ".join(word for word in words if word)


def short(epoch: int) -> str:
    """Return an epoch as its timeline and its number there."""
    return f"{epoch // LIFE}.{epoch % LIFE}"
