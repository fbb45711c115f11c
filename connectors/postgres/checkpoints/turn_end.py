"""A turn's end as the ledger stores it: the outcome, and the interrupt that it leaves open."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from turnstream.connectors.postgres.checkpoints.statements import End

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langgraph.types import Interrupt

    from turnstream.connectors.postgres.checkpoints.hold import Hold
    from turnstream.schemas.records.results import Outcome


class Question(NamedTuple):
    """What a task stopped with: its path, the namespace of its graph, LangGraph's own object."""

    path: str
    namespace: str
    interrupt: Interrupt


def end_of(hold: Hold, outcome: Outcome, reopen: bytes | None) -> End:
    """Return what to write of an outcome, and what it yields to (W7).

    `reopen` is the interrupt that was open before the turn, if it is to be open again.
    """
    asks = outcome.status == "interrupted"
    rolls_back = outcome.status == "cancelled" and outcome.code == "rollback"
    times = [asked.expires_at for asked in outcome.interrupts if asked.expires_at]
    return End(
        tenant=hold.tenant,
        turn_id=hold.turn_id,
        outcome=msgspec.json.encode(outcome),
        interrupt=_interrupt(hold, outcome, times) if asks else reopen,
        yields_to="any" if asks else "" if rolls_back or reopen else "rollback",
        expires_at=min(times, default=0),
        rolls_back=rolls_back,
        reopens=reopen is not None,
    )


def _interrupt(hold: Hold, outcome: Outcome, times: list[int]) -> bytes:
    """Return the open interrupt as JSON; it expires with the first of its questions."""
    interrupt: dict[str, object] = {
        "turn_id": str(hold.turn_id),
        "ids": [asked.id for asked in outcome.interrupts],
    }
    schemas: Mapping[str, str] = {asked.id: asked.response_schema for asked in outcome.interrupts}
    if any(schemas.values()):
        interrupt["schemas"] = {key: schema for key, schema in schemas.items() if schema}
    if hold.run.askers:
        interrupt["askers"] = hold.run.askers
    if times:
        interrupt["expires_at"] = min(times)
    return msgspec.json.encode(interrupt)
