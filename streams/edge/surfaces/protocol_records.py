"""Records of a turn as drafts of the Agent Streaming Protocol, one function a record type. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.schemas.records.events import (
    CheckpointSaved,
    CustomEmitted,
    Event,
    InputRequested,
    MessageFinished,
    MessageStarted,
    StepFinished,
    StepStarted,
    TokensEmitted,
    ToolFailed,
    ToolFinished,
    ToolProgressed,
    ToolStarted,
)
from turnstream.streams.edge.deliver.frames import embed, json_bytes
from turnstream.streams.edge.surfaces.protocol_endings import tool_error
from turnstream.streams.edge.surfaces.protocol_text import message_finished, message_started, tokens
from turnstream.streams.edge.surfaces.protocol_turn import (
    ROOT,
    entered,
    lifecycle,
    segment,
    space_of,
)

if TYPE_CHECKING:
    from turnstream.streams.edge.surfaces.protocol_message import Draft
    from turnstream.streams.edge.surfaces.protocol_turn import OpenTurn


def said(turn: OpenTurn, record: Event) -> list[Draft]:  # noqa: PLR0911, PLR0912  one line a type
    """Return what a record shows; nothing for a start, an end and an unknown type."""
    match record:
        case TokensEmitted():
            return tokens(turn, record)
        case MessageStarted():
            return message_started(turn, record)
        case MessageFinished():
            return message_finished(turn, record)
        case StepStarted():
            return _step_started(turn, record)
        case StepFinished():
            return _step_finished(turn, record)
        case ToolStarted():
            return _tool_started(turn, record)
        case ToolProgressed():
            return _tool_progressed(turn, record)
        case ToolFinished():
            return _tool_finished(turn, record)
        case ToolFailed():
            return _tool_failed(turn, record)
        case InputRequested():
            turn.questions[record.interrupt_id] = record
            return []
        case CheckpointSaved():
            return _checkpoint_saved(record)
        case CustomEmitted():
            return _custom(turn, record)
        case _:
            return []


def _step_started(turn: OpenTurn, record: StepStarted) -> list[Draft]:
    turn.nodes.setdefault(record.path, record.node)
    space = space_of(turn, record.path)
    data = b'{"id":%b,"name":%b,"input":%b,"triggers":%b}' % (
        json_bytes(record.task_id),
        json_bytes(record.node),
        embed(record.input) if record.input else b"null",
        json_bytes(record.triggers),
    )
    return [*(entered(turn, space) if space else ()), ("tasks", "tasks", space, data)]


def _step_finished(turn: OpenTurn, record: StepFinished) -> list[Draft]:
    space = space_of(turn, record.path)
    inner = (*space, segment(turn, record.path))
    drafts: list[Draft] = []
    for nested in sorted(turn.nested, reverse=True):
        if nested[: len(inner)] == inner:
            turn.nested.discard(nested)
            status = "failed" if record.error else "completed"
            drafts.append(lifecycle(status, namespace=nested, error=record.error))
    update = embed(record.update) if record.update else b""
    if update and not record.error and not record.interrupts:
        values = b'{"node":%b,"values":%b}' % (json_bytes(record.node), update)
        drafts.append(("updates", "updates", space, values))
    result = b'{"id":%b,"name":%b,"error":%b,"result":%b,"interrupts":%b}' % (
        json_bytes(record.task_id),
        json_bytes(record.node),
        json_bytes(record.error or None),
        embed(record.result) if record.result else update or b"null",
        embed(record.interrupts) if record.interrupts else b"[]",
    )
    return [*drafts, ("tasks", "tasks", space, result)]


def _tool_started(turn: OpenTurn, record: ToolStarted) -> list[Draft]:
    space = turn.tools[record.tool_call_id] = space_of(turn, record.path)
    data = b'{"event":"tool-started","tool_call_id":%b,"tool_name":%b,"input":%b}' % (
        json_bytes(record.tool_call_id),
        json_bytes(record.name),
        embed(record.args),
    )
    return [("tools", "tools", space, data)]


def _tool_progressed(turn: OpenTurn, record: ToolProgressed) -> list[Draft]:
    data = {
        "event": "tool-output-delta",
        "tool_call_id": record.tool_call_id,
        "delta": record.data,
    }
    return [("tools", "tools", space_of(turn, record.path), json_bytes(data))]


def _tool_finished(turn: OpenTurn, record: ToolFinished) -> list[Draft]:
    turn.tools.pop(record.tool_call_id, None)
    data = {
        "event": "tool-finished",
        "tool_call_id": record.tool_call_id,
        "output": record.output,
    }
    return [("tools", "tools", space_of(turn, record.path), json_bytes(data))]


def _tool_failed(turn: OpenTurn, record: ToolFailed) -> list[Draft]:
    turn.tools.pop(record.tool_call_id, None)
    space = space_of(turn, record.path)
    return [tool_error(record.tool_call_id, space, record.message, record.code)]


def _checkpoint_saved(record: CheckpointSaved) -> list[Draft]:
    data: dict[str, object] = {"id": record.checkpoint_id, "step": record.step}
    data["source"] = record.source
    if record.parent_id:
        data["parent_id"] = record.parent_id
    space = tuple(record.ns.split("|")) if record.ns else ROOT
    return [("checkpoints", "checkpoints", space, json_bytes(data))]


def _custom(turn: OpenTurn, record: CustomEmitted) -> list[Draft]:
    payload = embed(record.payload)
    space = space_of(turn, record.path)
    if not record.name:
        return [("custom", "custom", space, b'{"payload":%b}' % payload)]
    data = b'{"name":%b,"payload":%b}' % (json_bytes(record.name), payload)
    return [("custom", f"custom:{record.name}", space, data)]
