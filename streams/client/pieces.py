"""What a terminal shows of a turn, read from the events of the Agent Streaming Protocol; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec


@dataclass(frozen=True, slots=True)
class Piece:
    """One new thing to show.

    `kind`: `text`, `reasoning`, `message-end`, `tool-started`, `tool-progress`, `tool-finished`,
    `tool-failed`, `rewound` (the open message is void, it begins anew), `question` (its id is `id`)
    or `dropped` (the socket is being opened again). `nested`: said inside a nested graph.
    """

    kind: str
    text: str = ""
    name: str = ""
    id: str = ""
    nested: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """The turn is over; `error` is why it failed (`cancelled`: a caller stopped it)."""

    status: Literal["completed", "failed", "interrupted"]
    error: str = ""


@dataclass(slots=True)
class Reader:
    """Protocol events in, pieces out; pure. `armed`: the next root end is this turn's."""

    armed: bool
    seq: int = -1
    _tools: dict[str, str] = field(default_factory=dict)

    def take(self, frame: dict[str, Any]) -> list[Piece | End]:
        """Return what a frame shows: nothing for one of another kind, or one seen before."""
        seq = frame.get("seq")
        if frame.get("type") != "event" or not isinstance(seq, int) or seq <= self.seq:
            return []
        self.seq = seq
        params = frame.get("params") or {}
        data = params.get("data") or {}
        nested = bool(params.get("namespace"))
        match frame.get("method"):
            case "lifecycle" if not nested:
                return self._lifecycle(data)
            case "messages":
                return _message(data, nested)
            case "tools":
                return self._tool(data, nested)
            case "input.requested":
                asked = data.get("payload", data.get("value"))
                return [Piece("question", _plain(asked), id=str(data.get("interrupt_id", "")))]
            case _:
                return []

    def _lifecycle(self, data: dict[str, Any]) -> list[Piece | End]:
        event = data.get("event")
        if event in {"started", "running"}:
            self.armed = True
        elif self.armed and event in {"completed", "failed", "interrupted"}:
            return [End(event, str(data.get("error", "")))]
        return []

    def _tool(self, data: dict[str, Any], nested: bool) -> list[Piece | End]:
        call_id = str(data.get("tool_call_id", ""))
        match data.get("event"):
            case "tool-started":
                self._tools[call_id] = name = str(data.get("tool_name", ""))
                return [Piece("tool-started", _plain(data.get("input")), name, call_id, nested)]
            case "tool-output-delta":
                kind, text = "tool-progress", _plain(data.get("delta"))
            case "tool-finished":
                kind, text = "tool-finished", _plain(data.get("output"))
            case "tool-error":
                kind, text = "tool-failed", str(data.get("message", ""))
            case _:
                return []
        return [Piece(kind, text, self._tools.get(call_id, ""), call_id, nested)]


def _message(data: dict[str, Any], nested: bool) -> list[Piece | End]:
    message_id = str(data.get("id", ""))
    match data.get("event"):
        case "content-block-delta":
            delta = data.get("delta") or {}
            if delta.get("type") == "text-delta":
                return [Piece("text", str(delta.get("text", "")), "", message_id, nested)]
            if delta.get("type") == "reasoning-delta":
                text = str(delta.get("reasoning", ""))
                return [Piece("reasoning", text, "", message_id, nested)]
            return []
        case "message-finish":
            return [Piece("message-end", "", "", message_id, nested)]
        case "error":
            return [Piece("rewound", str(data.get("message", "")), "", message_id, nested)]
        case _:
            return []


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
