"""Messages of a turn in the Agent Streaming Protocol, from start to finish. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from turnstream.schemas.fold.messages import Message
from turnstream.schemas.records.events import MessageStarted
from turnstream.streams.edge.deliver.frames import json_bytes
from turnstream.streams.edge.surfaces.protocol_message import OpenMessage, delta, finish
from turnstream.streams.edge.surfaces.protocol_turn import entered, space_of

if TYPE_CHECKING:
    from turnstream.schemas.records.events import Event, MessageFinished, TokensEmitted
    from turnstream.streams.edge.surfaces.protocol_message import Draft
    from turnstream.streams.edge.surfaces.protocol_turn import OpenTurn

_ROLES = {"assistant": "ai", "user": "human", "system": "system"}


def message_started(turn: OpenTurn, record: MessageStarted) -> list[Draft]:
    """Return a message's start; none for a tool's message."""
    role = _ROLES.get(record.role)
    if role is None:  # the `tools` channel and the state show tool results
        turn.unshown.add(record.message_id)
        return []
    return _open_message(turn, record.message_id, record.path, record, role)[1]


def _open_message(
    turn: OpenTurn, message_id: str, path: str, record: Event, role: str = "ai"
) -> tuple[OpenMessage, list[Draft]]:
    # a message that was taken back comes again under another id: clients keep deltas
    public = turn.public.setdefault(message_id, message_id)
    space = space_of(turn, path)
    message = Message.of(record) if isinstance(record, MessageStarted) else Message(message_id)
    opened = OpenMessage(message, public, json_bytes(public), space)
    turn.open[message_id] = opened
    told = record.metadata if isinstance(record, MessageStarted) else ""
    metadata = msgspec.json.decode(told, type=dict[str, object]) if told else {}
    metadata |= {"run_id": record.turn_id, "thread_id": record.thread_id}
    if (node := turn.nodes.get(path)) is not None:
        metadata["langgraph_node"] = node
    data = {"event": "message-start", "id": public, "role": role, "metadata": metadata}
    start: Draft = ("messages", "messages", space, json_bytes(data))
    return opened, [*(entered(turn, space) if space else ()), start]


def tokens(turn: OpenTurn, record: TokensEmitted) -> list[Draft]:
    """Return a delta, after the starts of its message and its block if they are new."""
    message = turn.open.get(record.message_id)
    if message is not None:
        return delta(message, record)
    # the message's beginning is lost; the state at the turn's end has the whole message
    if turn.partial or record.message_id in turn.unshown:
        return []
    message, start = _open_message(turn, record.message_id, record.path, record)
    return [*start, *delta(message, record)]


def message_finished(turn: OpenTurn, record: MessageFinished) -> list[Draft]:
    """Return the ends of a message and its blocks."""
    turn.unshown.discard(record.message_id)
    message = turn.open.pop(record.message_id, None)
    return finish(message, record.usage) if message is not None else []
