"""How a run ends, in the SDK's form: its status, its error, its questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.schemas.records.events import (
    Event,
    TurnCancelled,
    TurnCompleted,
    TurnEnded,
    TurnFailed,
    TurnInterrupted,
    TurnRejected,
)
from turnstream.streams.edge.surfaces.run_events import raw

if TYPE_CHECKING:
    from turnstream.schemas.records.events import Interrupt


def ending(record: Event) -> tuple[str, dict[str, str] | None]:
    """Return the SDK's run status of a terminal, and its error if the run failed."""
    match record:
        case TurnCompleted():
            return "success", None
        case TurnInterrupted() | TurnCancelled():
            return "interrupted", None
        case TurnFailed():
            return run_status("failed", record.code), error_shown(record.code, record.message)
        case TurnRejected():
            return "error", error_shown(record.reason, record.message)
        case TurnEnded():
            status = run_status(record.outcome, record.code)
            failed = status in ("error", "timeout")
            return status, error_shown(record.code, record.message) if failed else None
        case _:  # a terminal of a later version
            return "success", None


def run_status(status: str, code: str = "") -> str:
    """Return the SDK's run status for a turn's status: an outcome's, `pending` or `running`."""
    if status in ("pending", "running"):
        return status
    if status in ("failed", "rejected"):
        return "timeout" if code == "expired" else "error"
    return "success" if status == "completed" else "interrupted"


def shown(interrupts: tuple[Interrupt, ...]) -> list[dict[str, object]]:
    """Return questions in the SDK's form, with schema and deadline of the answer if given."""
    found: list[dict[str, object]] = []
    for one in interrupts:
        question: dict[str, object] = {"value": raw(one.payload), "id": one.id}
        if one.response_schema:
            question["response_schema"] = raw(one.response_schema)
        if one.expires_at:
            question["expires_at"] = one.expires_at
        found.append(question)
    return found


def error_shown(code: str, message: str) -> dict[str, str]:
    """Return an error in the SDK's form."""
    return {"error": code or "failed", "message": message or code or "the turn failed"}
