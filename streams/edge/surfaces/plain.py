"""A thread as plain events, for clients that need no SDK. Pure.

Events (all with `run_id`): `started {attempt}`, `token {message_id, text}`,
`reasoning {message_id, text}`, `message {message_id, role, text}` (whole), `tool {tool_call_id,
name, state: running|progress|finished|failed, ...}`, `custom {name, payload}`,
`question {id, value}`, `resolved {id, actor}` (a question is closed: `actor` is the caller who
answered it with the run, `superseded` or `expired`), `rewind {message_ids, tool_call_ids}` (remove
these: they come again under other ids), and once a run `end {status, text, error?, questions?}`.

Two events are of the stream itself and have no `run_id`: `opened {}` comes first for a client
without a cursor, and its cursor is where the stream begins; `reset {alive}` comes if the log no
longer reaches a cursor.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.schemas.fold.fold import Verdict
from turnstream.schemas.fold.messages import Message
from turnstream.schemas.records.events import (
    AttemptStarted,
    CustomEmitted,
    Event,
    InputRequested,
    InputResolved,
    MessageFinished,
    MessageStarted,
    TokensEmitted,
    ToolFailed,
    ToolFinished,
    ToolProgressed,
    ToolStarted,
    TurnInterrupted,
)
from turnstream.streams.edge.surfaces.run_endings import ending, shown
from turnstream.streams.edge.surfaces.run_events import raw

if TYPE_CHECKING:
    from turnstream.schemas.fold.fold import Change, TurnView

SimpleEvent = tuple[str, dict[str, object]]


@dataclass(slots=True)
class SimpleProjection:
    """One reader's view of a thread; `apply` takes its changes in log order."""

    _open: dict[str, Message] = field(default_factory=dict)
    _attempts: Counter[str] = field(default_factory=Counter)
    _tools: set[str] = field(default_factory=set)
    _unshown: set[str] = field(default_factory=set)

    def opened(self) -> list[SimpleEvent]:
        """Return the first event of a client without a cursor."""
        return [("opened", {})]

    def reset(self, *, alive: bool) -> list[SimpleEvent]:
        """Return the event that voids all earlier ones."""
        return [("reset", {"alive": alive})]

    def apply(self, change: Change) -> list[SimpleEvent]:
        """Return the events that the change shows, in order."""
        record = change.record
        if change.verdict is Verdict.THREAD and isinstance(record, InputResolved):
            closed: dict[str, object] = {
                "run_id": record.turn_id,
                "id": record.interrupt_id,
                "actor": record.actor,
            }
            return [("resolved", closed)]
        if change.turn is None or change.verdict in (Verdict.IGNORED, Verdict.GAP):
            return []
        out: list[SimpleEvent] = []
        if change.dropped:
            out.append(("rewind", self._rewind(change.dropped)))
        if isinstance(record, AttemptStarted):
            self._attempts[change.turn.turn_id] += 1
            attempt = self._attempts[change.turn.turn_id]
            out.append(("started", {"attempt": attempt}))
        elif self._began_lost(change.turn, record):
            pass  # the message's beginning is lost; the thread's state has the whole message
        elif isinstance(record, Event) and (event := self._event(record)) is not None:
            out.append(event)
        run_id = {"run_id": change.turn.turn_id}
        return [(name, run_id | data) for name, data in out]

    def _began_lost(self, turn: TurnView, record: object) -> bool:
        if not isinstance(record, TokensEmitted | MessageFinished):
            return False
        return turn.partial and record.message_id not in self._open

    def _event(self, record: Event) -> SimpleEvent | None:
        match record:
            case TokensEmitted() | MessageStarted() | MessageFinished():
                return self._message(record)
            case CustomEmitted():
                return "custom", {"name": record.name, "payload": raw(record.payload)}
            case InputRequested():
                return "question", {"id": record.interrupt_id, "value": raw(record.payload)}
            case ToolStarted() | ToolProgressed() | ToolFinished() | ToolFailed():
                self._tools.add(record.tool_call_id)
                return "tool", _tool(record)
            case _:
                if not record.terminal:
                    return None
                self._tools.clear()
                self._unshown.clear()
                return "end", end_of(record)

    def _message(
        self, record: TokensEmitted | MessageStarted | MessageFinished
    ) -> SimpleEvent | None:
        about: dict[str, object] = {"message_id": record.message_id}
        if isinstance(record, MessageStarted):
            if record.role == "tool" and record.tool_call_id in self._tools:
                self._unshown.add(record.message_id)  # the tool's own events show it
            else:
                self._open[record.message_id] = Message.of(record)
            return None
        if record.message_id in self._unshown:
            if isinstance(record, MessageFinished):
                self._unshown.discard(record.message_id)
            return None
        if isinstance(record, MessageFinished):
            ended = self._open.pop(record.message_id, None) or Message(record.message_id)
            return "message", about | {"role": ended.role, "text": ended.text}
        message = self._open.get(record.message_id)
        if message is None:
            message = self._open[record.message_id] = Message(record.message_id)
        if record.kind == "text":
            message.take(record)
        if message.role != "assistant" or record.kind == "tool_args":
            return None
        return "token" if record.kind == "text" else "reasoning", about | {"text": record.text}

    def _rewind(self, dropped: tuple[Event, ...]) -> dict[str, object]:
        messages: dict[str, None] = {}
        tools: dict[str, None] = {}
        for item in dropped:
            if isinstance(item, MessageStarted | TokensEmitted | MessageFinished):
                messages[item.message_id] = None
            elif isinstance(item, ToolStarted | ToolProgressed | ToolFinished | ToolFailed):
                tools[item.tool_call_id] = None
        for message_id in messages:
            self._open.pop(message_id, None)
        return {"message_ids": list(messages), "tool_call_ids": list(tools)}


def end_of(record: Event) -> dict[str, object]:
    """Return how a run ended: `status` as the SDK names it, its text, its error or questions."""
    status, error = ending(record)
    end: dict[str, object] = {"status": status, "text": getattr(record, "text", "")}
    if error is not None:
        end["error"] = {"code": error["error"], "message": error["message"]}
    if isinstance(record, TurnInterrupted):
        end["questions"] = shown(tuple(record.interrupts))
    return end


def _tool(record: ToolStarted | ToolProgressed | ToolFinished | ToolFailed) -> dict[str, object]:
    tool: dict[str, object] = {"tool_call_id": record.tool_call_id}
    match record:
        case ToolStarted():
            return tool | {"name": record.name, "state": "running", "args": raw(record.args)}
        case ToolProgressed():
            return tool | {"state": "progress", "data": raw(record.data)}
        case ToolFinished():
            return tool | {"name": record.name, "state": "finished", "output": record.output}
        case ToolFailed():
            error = {"code": record.code, "message": record.message}
            return tool | {"name": record.name, "state": "failed", "error": error}
