"""The events of tool calls that were stopped in the middle, at a turn's end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.graph.tools.recorded_calls import STOPPED
from turnstream.schemas.errors import ToolIndeterminateError
from turnstream.schemas.records.events import ToolFailed, ToolStarted

if TYPE_CHECKING:
    from turnstream.graph.ports.tools import ToolCalls
    from turnstream.graph.run.said import Said


def closing_id(turn_id: str, tool_call_id: str) -> str:
    """Return the id of the message with which a turn's end answers an open call."""
    return f"{turn_id}-{tool_call_id}"


async def say_stopped(
    ledger: ToolCalls, said: Said, told: set[str], *, turn_id: str, why: str, earlier: bool
) -> None:
    """Emit that it is unknown whether these calls took effect, and add their ids to `told`.

    A cancelled call may have sent its request, and a call in a thread goes on. `earlier`: calls may
    have begun before this attempt; their `ToolStarted` is void and is emitted again.
    """
    calls = {(call.path, call.ordinal): call for call in await ledger.begun()} if earlier else {}
    for place, call in {**calls, **ledger.open}.items():
        if call.tool_call_id in told:
            continue
        told.add(call.tool_call_id)
        event = {"path": call.path, "tool_call_id": call.tool_call_id, "name": call.name}
        if place not in ledger.open:
            said.add(ToolStarted, **event)
        message = STOPPED.format(name=call.name, why=why)
        said.add(
            ToolFailed,
            **event,
            code=ToolIndeterminateError.code,
            message=message,
            message_id=closing_id(turn_id, call.tool_call_id),
        )
