"""What one turn's events are in the Agent Streaming Protocol: drafts without numbers. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from turnstream.schemas.fold.messages import Message
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
from turnstream.streams.edge.deliver.frames import VALUES, embed, json_bytes
from turnstream.streams.edge.surfaces.protocol_message import (
    Draft,
    OpenMessage,
    delta,
    failed,
    finish,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ROLES = {"assistant": "ai", "user": "human", "system": "system"}
ROOT: tuple[str, ...] = ()


@dataclass(slots=True)
class OpenTurn:
    """What the projection remembers of an open turn; `partial`: the log has lost its beginning."""

    graph: str = ""
    partial: bool = False
    open: dict[str, OpenMessage] = field(default_factory=dict)
    tools: dict[str, tuple[str, ...]] = field(default_factory=dict)
    public: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    spaces: dict[str, tuple[str, ...]] = field(default_factory=dict)
    nested: set[tuple[str, ...]] = field(default_factory=set)
    questions: dict[str, InputRequested] = field(default_factory=dict)
    unshown: set[str] = field(default_factory=set)
    broken: bool = False


def lifecycle(
    event: str, *, namespace: tuple[str, ...] = ROOT, graph_name: str = "", error: str = ""
) -> Draft:
    """Return a lifecycle event of the root or a nested graph."""
    data = {"event": event}
    if graph_name:
        data["graph_name"] = graph_name
    if error:
        data["error"] = error
    return ("lifecycle", "lifecycle", namespace, json_bytes(data))


def snapshot() -> Draft:
    """Return a `values` snapshot whose state is read when somebody wants it."""
    return (VALUES, VALUES, ROOT, None)


def _space(turn: OpenTurn, path: str) -> tuple[str, ...]:
    """Return the namespace of what is said under `path`: the nested graphs it lies in."""
    space = turn.spaces.get(path)
    if space is None:
        parts = path.split("|")
        space = turn.spaces[path] = tuple(
            _segment(turn, "|".join(parts[:depth])) for depth in range(1, len(parts))
        )
    return space


def _segment(turn: OpenTurn, path: str) -> str:
    task_id = path.rpartition("|")[2]
    node = turn.nodes.get(path)
    return f"{node}:{task_id}" if node else task_id


def _entered(turn: OpenTurn, space: tuple[str, ...]) -> list[Draft]:
    """Say that a nested graph began, when its first event is seen."""
    drafts: list[Draft] = []
    for depth in range(1, len(space) + 1):
        inner = space[:depth]
        if inner not in turn.nested:
            turn.nested.add(inner)
            name = inner[-1].partition(":")[0]
            drafts.append(lifecycle("started", namespace=inner, graph_name=name))
    return drafts


def _message_started(turn: OpenTurn, record: MessageStarted) -> list[Draft]:
    role = _ROLES.get(record.role)
    if role is None:  # tool results go by the `tools` channel and the state
        turn.unshown.add(record.message_id)
        return []
    return _open_message(turn, record.message_id, record.path, record, role)[1]


def _open_message(
    turn: OpenTurn, message_id: str, path: str, record: Event, role: str = "ai"
) -> tuple[OpenMessage, list[Draft]]:
    # a message that was taken back comes again under another id: clients cannot unsay deltas
    public = turn.public.setdefault(message_id, message_id)
    space = _space(turn, path)
    message = Message.of(record) if isinstance(record, MessageStarted) else Message(message_id)
    opened = OpenMessage(message, public, json_bytes(public), space)
    turn.open[message_id] = opened
    told = record.metadata if isinstance(record, MessageStarted) else ""
    metadata: dict[str, Any] = msgspec.json.decode(told) if told else {}
    metadata |= {"run_id": record.turn_id, "thread_id": record.thread_id}
    if (node := turn.nodes.get(path)) is not None:
        metadata["langgraph_node"] = node
    data = {"event": "message-start", "id": public, "role": role, "metadata": metadata}
    start: Draft = ("messages", "messages", space, json_bytes(data))
    return opened, [*(_entered(turn, space) if space else ()), start]


def tokens(turn: OpenTurn, record: TokensEmitted) -> list[Draft]:
    """Return a delta, with its block's and its message's start where they are new."""
    message = turn.open.get(record.message_id)
    if message is not None:
        return delta(message, record)
    # its beginning is lost: the state at the turn's end has it whole
    if turn.partial or record.message_id in turn.unshown:
        return []
    message, start = _open_message(turn, record.message_id, record.path, record)
    return [*start, *delta(message, record)]


def _message_finished(turn: OpenTurn, record: MessageFinished) -> list[Draft]:
    turn.unshown.discard(record.message_id)
    message = turn.open.pop(record.message_id, None)
    return finish(message, record.usage) if message is not None else []


def _failed_tool(tool_call_id: str, space: tuple[str, ...], why: str, code: str) -> Draft:
    data = {"event": "tool-error", "tool_call_id": tool_call_id, "message": why, "code": code}
    return ("tools", "tools", space, json_bytes(data))


def closings(turn: OpenTurn, error: str | None) -> list[Draft]:
    """Close what is open: messages end whole, or with `error`; then nested graphs."""
    drafts: list[Draft] = []
    for message in turn.open.values():
        if error is None:
            drafts += finish(message, None)
        else:
            drafts.append(failed(message, error, "turn_failed"))
    for tool_call_id, space in turn.tools.items():
        drafts.append(_failed_tool(tool_call_id, space, error or "the turn ended", "turn_ended"))
    status = "failed" if error else "completed"
    drafts += [lifecycle(status, namespace=space) for space in sorted(turn.nested, reverse=True)]
    turn.open.clear()
    turn.tools.clear()
    turn.nested.clear()
    return drafts


def rewound(turn: OpenTurn, dropped: Iterable[Event], record: Event) -> list[Draft]:
    """Take back: an error for what was open, a snapshot of the truth; later ids are new."""
    why = "taken back: the turn goes on from an earlier point"
    drafts: list[Draft] = []
    for item in dropped:
        if isinstance(item, MessageStarted | TokensEmitted | MessageFinished):
            # epoch and n of the rewind make the new id the same at every replay
            turn.public[item.message_id] = f"{item.message_id}~{record.epoch}.{record.n}"
            if (message := turn.open.pop(item.message_id, None)) is not None:
                drafts.append(failed(message, why, "rewound"))
        elif isinstance(item, ToolStarted):
            if (space := turn.tools.pop(item.tool_call_id, None)) is not None:
                drafts.append(_failed_tool(item.tool_call_id, space, why, "rewound"))
        elif isinstance(item, InputRequested):
            turn.questions.pop(item.interrupt_id, None)
    return [*drafts, snapshot()]


def _step_started(turn: OpenTurn, record: StepStarted) -> list[Draft]:
    turn.nodes.setdefault(record.path, record.node)
    space = _space(turn, record.path)
    data = b'{"id":%b,"name":%b,"input":%b,"triggers":%b}' % (
        json_bytes(record.task_id),
        json_bytes(record.node),
        embed(record.input) if record.input else b"null",
        json_bytes(record.triggers),
    )
    return [*(_entered(turn, space) if space else ()), ("tasks", "tasks", space, data)]


def _step_finished(turn: OpenTurn, record: StepFinished) -> list[Draft]:
    space = _space(turn, record.path)
    inner = (*space, _segment(turn, record.path))
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
    space = turn.tools[record.tool_call_id] = _space(turn, record.path)
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
    return [("tools", "tools", _space(turn, record.path), json_bytes(data))]


def _tool_finished(turn: OpenTurn, record: ToolFinished) -> list[Draft]:
    turn.tools.pop(record.tool_call_id, None)
    data = {
        "event": "tool-finished",
        "tool_call_id": record.tool_call_id,
        "output": record.output,
    }
    return [("tools", "tools", _space(turn, record.path), json_bytes(data))]


def _tool_failed(turn: OpenTurn, record: ToolFailed) -> list[Draft]:
    turn.tools.pop(record.tool_call_id, None)
    space = _space(turn, record.path)
    return [_failed_tool(record.tool_call_id, space, record.message, record.code)]


def _input_requested(turn: OpenTurn, record: InputRequested) -> list[Draft]:
    turn.questions[record.interrupt_id] = record
    return []


def _checkpoint_saved(turn: OpenTurn, record: CheckpointSaved) -> list[Draft]:
    del turn
    data: dict[str, object] = {"id": record.checkpoint_id, "step": record.step}
    data["source"] = record.source
    if record.parent_id:
        data["parent_id"] = record.parent_id
    space = tuple(record.ns.split("|")) if record.ns else ROOT
    return [("checkpoints", "checkpoints", space, json_bytes(data))]


def _custom(turn: OpenTurn, record: CustomEmitted) -> list[Draft]:
    payload = embed(record.payload)
    space = _space(turn, record.path)
    if not record.name:
        return [("custom", "custom", space, b'{"payload":%b}' % payload)]
    data = b'{"name":%b,"payload":%b}' % (json_bytes(record.name), payload)
    return [("custom", f"custom:{record.name}", space, data)]


# what is said of each kind of record; each function takes the type that is its key
SPEAK: dict[type[Event], Callable[[OpenTurn, Any], list[Draft]]] = {
    MessageStarted: _message_started,
    TokensEmitted: tokens,
    MessageFinished: _message_finished,
    StepStarted: _step_started,
    StepFinished: _step_finished,
    ToolStarted: _tool_started,
    ToolProgressed: _tool_progressed,
    ToolFinished: _tool_finished,
    ToolFailed: _tool_failed,
    InputRequested: _input_requested,
    CheckpointSaved: _checkpoint_saved,
    CustomEmitted: _custom,
}
