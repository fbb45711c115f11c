"""What an outcome becomes: a terminal event, an unclaimed end, a result. Pure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from turnstream.schemas.fold.fold import TIMELINE_BITS
from turnstream.schemas.ids import event_id, result_id, split_thread_key
from turnstream.schemas.records.events import (
    Event,
    InputResolved,
    TurnCancelled,
    TurnCompleted,
    TurnEnded,
    TurnFailed,
    TurnInterrupted,
    TurnRejected,
)
from turnstream.schemas.records.results import TurnResult

if TYPE_CHECKING:
    from uuid import UUID

    from turnstream.connectors.postgres.ledger.rows import Claim, Ended
    from turnstream.schemas.records.commands import Command
    from turnstream.schemas.records.results import Outcome


def terminal_of(outcome: Outcome) -> tuple[type[Event], dict[str, object]]:
    """Return the terminal event's type and its own fields."""
    match outcome.status:
        case "completed":
            return TurnCompleted, {
                "message_id": outcome.message_id,
                "text": outcome.text,
                "sha256": outcome.sha256,
                "usage": outcome.usage,
            }
        case "interrupted":
            return TurnInterrupted, {"interrupts": outcome.interrupts, "usage": outcome.usage}
        case "cancelled":
            return TurnCancelled, {
                "cause": outcome.code,
                "text": outcome.text,
                "sha256": outcome.sha256,
                "usage": outcome.usage,
            }
        case "rejected":
            return TurnRejected, {"reason": outcome.code, "message": outcome.message}
        case "failed":
            return TurnFailed, {
                "code": outcome.code,
                "retryable": outcome.retryable,
                "message": outcome.message,
                "text": outcome.text,
                "usage": outcome.usage,
            }


def ended_of(ended: Ended, actor: str, traceparent: str, at: int) -> TurnEnded:
    """Return the event that is start and terminal of a turn that ended unclaimed (A5)."""
    epoch = ended.timeline << TIMELINE_BITS
    return TurnEnded(
        event_id=event_id(str(ended.turn_id), epoch, 1),
        tenant=ended.tenant,
        thread_id=ended.thread_id,
        turn_id=str(ended.turn_id),
        epoch=epoch,
        n=1,
        at=at,
        actor=actor,
        traceparent=traceparent,
        outcome=ended.outcome.status,
        code=ended.outcome.code,
        message=ended.outcome.message,
    )


def resolved_of(
    thread_key: str, turn_id: UUID, interrupt_id: str, rev: int, actor: str
) -> InputResolved:
    """Return the event that closes an interrupt for readers."""
    tenant, thread_id = split_thread_key(thread_key)
    return InputResolved(
        event_id=event_id(interrupt_id, 0, rev),
        tenant=tenant,
        thread_id=thread_id,
        turn_id=str(turn_id),
        epoch=0,
        n=0,
        at=time.time_ns() // 1000,
        actor=actor,
        interrupt_id=interrupt_id,
        rev=rev,
    )


def result_of(turn: Claim | Ended, command: Command, outcome: Outcome) -> TurnResult:
    """Return the turn's one result. It follows from turn and outcome, so repeats are equal."""
    turn_id = str(turn.turn_id)
    return TurnResult(
        event_id=result_id(turn_id),
        tenant=turn.tenant,
        thread_id=turn.thread_id,
        turn_id=turn_id,
        correlation_id=command.correlation_id,
        status=outcome.status,
        code=outcome.code,
        retryable=outcome.retryable,
        message=outcome.message,
        message_id=outcome.message_id,
        text=outcome.text,
        sha256=outcome.sha256,
        usage=outcome.usage,
        interrupts=outcome.interrupts,
        attempts=outcome.attempts,
        at=outcome.at or command.at,
        actor=command.actor,
        traceparent=command.traceparent,
        lost_usage=outcome.lost_usage,
    )
