"""The end of what is open in a turn, in the Agent Streaming Protocol. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.schemas.records.events import (
    Event,
    InputRequested,
    MessageFinished,
    MessageStarted,
    TokensEmitted,
    ToolStarted,
)
from turnstream.streams.edge.deliver.frames import json_bytes
from turnstream.streams.edge.surfaces.protocol_message import failed, finish
from turnstream.streams.edge.surfaces.protocol_turn import lifecycle, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from turnstream.streams.edge.surfaces.protocol_message import Draft
    from turnstream.streams.edge.surfaces.protocol_turn import OpenTurn


def closings(turn: OpenTurn, error: str | None) -> list[Draft]:
    """Close open messages, as whole or with `error`, then tool calls and nested graphs."""
    drafts: list[Draft] = []
    for message in turn.open.values():
        if error is None:
            drafts += finish(message, None)
        else:
            drafts.append(failed(message, error, "turn_failed"))
    for tool_call_id, space in turn.tools.items():
        drafts.append(tool_error(tool_call_id, space, error or "the turn ended", "turn_ended"))
    status = "failed" if error else "completed"
    drafts += [lifecycle(status, namespace=space) for space in sorted(turn.nested, reverse=True)]
    turn.open.clear()
    turn.tools.clear()
    turn.nested.clear()
    return drafts


def rewound(turn: OpenTurn, dropped: Iterable[Event], record: Event) -> list[Draft]:
    """Take back what was dropped: errors for what was open, and a snapshot; later ids are new."""
    why = "taken back: the turn goes on from an earlier point"
    drafts: list[Draft] = []
    for item in dropped:
        if isinstance(item, MessageStarted | TokensEmitted | MessageFinished):
            # by epoch and n of the rewind, every edge and every replay makes the same new id
            turn.public[item.message_id] = f"{item.message_id}~{record.epoch}.{record.n}"
            if (message := turn.open.pop(item.message_id, None)) is not None:
                drafts.append(failed(message, why, "rewound"))
        elif isinstance(item, ToolStarted):
            if (space := turn.tools.pop(item.tool_call_id, None)) is not None:
                drafts.append(tool_error(item.tool_call_id, space, why, "rewound"))
        elif isinstance(item, InputRequested):
            turn.questions.pop(item.interrupt_id, None)
    return [*drafts, snapshot()]


def tool_error(tool_call_id: str, space: tuple[str, ...], why: str, code: str) -> Draft:
    """Return the end of a tool call that failed."""
    data = {"event": "tool-error", "tool_call_id": tool_call_id, "message": why, "code": code}
    return ("tools", "tools", space, json_bytes(data))
