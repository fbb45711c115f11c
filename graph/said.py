"""What a turn has said in this attempt, for its end. Pure; stands in front of the emitter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from turnstream.schemas.events import MessageFinished, MessageStarted, TaskRetried, Usage
from turnstream.schemas.fold import covers
from turnstream.schemas.transcript import clean_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from turnstream.graph.ports import Emitter
    from turnstream.schemas.events import Event


@dataclass(slots=True)
class SaidMessage:
    """A message as far as it was said; `parts` are its text blocks' tokens by block."""

    message_id: str
    role: str
    path: str
    parts: dict[int, list[str]] = field(default_factory=dict)
    finished: bool = False
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """Return the text blocks in order."""
        return clean_text("".join("".join(self.parts[block]) for block in sorted(self.parts)))


class Said:
    """An emitter that passes everything on and remembers the messages.

    After `close` nothing is passed on: the graph's last words, when its tasks are being stopped,
    are not heard (RULES W7), while the attempt can still publish the turn's end.
    """

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._shut = False
        self.messages: dict[str, SaidMessage] = {}

    @property
    def closed(self) -> bool:
        """True when nothing more is heard."""
        return self._shut or self._emitter.closed

    def close(self) -> None:
        """Hear nothing more."""
        self._shut = True

    def emit(self, event_type: type[Event], *, path: str, **fields: Any) -> None:
        """Pass an event on."""
        if self._shut:
            return
        self._emitter.emit(event_type, path=path, **fields)
        if event_type is MessageStarted:
            message_id = fields["message_id"]
            self.messages.pop(message_id, None)
            self.messages[message_id] = SaidMessage(
                message_id, fields.get("role", "assistant"), path
            )
        elif event_type is MessageFinished:
            message = self.messages.get(fields["message_id"])
            if message is not None:
                message.finished = True
                message.usage = fields.get("usage")
        elif event_type is TaskRetried:
            self._take_back(path, [entry.path for entry in fields.get("keep", ())])

    def tokens(
        self,
        *,
        path: str,
        message_id: str,
        block: int,
        kind: str,
        text: str,
        tool_call_id: str = "",
        tool_name: str = "",
    ) -> None:
        """Pass tokens on."""
        if self._shut:
            return
        self._emitter.tokens(
            path=path,
            message_id=message_id,
            block=block,
            kind=kind,
            text=text,
            tool_call_id=tool_call_id,
            tool_name=tool_name,
        )
        if kind == "text" and (message := self.messages.get(message_id)) is not None:
            parts = message.parts.get(block)
            if parts is None:
                message.parts[block] = [text]
            else:
                parts.append(text)

    def answer(self) -> SaidMessage | None:
        """Return the last whole assistant message with text."""
        for message in reversed(self.messages.values()):
            if message.finished and message.role == "assistant" and message.parts:
                return message
        return None

    def unsaved(self, saved_ids: Iterable[str]) -> list[SaidMessage]:
        """Return the assistant messages with text that a state with these message ids lacks."""
        known = set(saved_ids)
        return [
            message
            for message in self.messages.values()
            if message.role == "assistant" and message.message_id not in known and message.text
        ]

    def usage(self) -> list[Usage]:
        """Return the tokens spent, one entry a model."""
        totals: dict[str, Usage] = {}
        for message in self.messages.values():
            if (one := message.usage) is None:
                continue
            sum_ = totals.get(one.model, Usage(model=one.model))
            totals[one.model] = Usage(
                model=one.model,
                input_tokens=sum_.input_tokens + one.input_tokens,
                output_tokens=sum_.output_tokens + one.output_tokens,
                reasoning_tokens=sum_.reasoning_tokens + one.reasoning_tokens,
                cached_tokens=sum_.cached_tokens + one.cached_tokens,
            )
        return list(totals.values())

    def _take_back(self, path: str, kept: list[str]) -> None:
        for message in list(self.messages.values()):
            if covers(path, message.path) and not any(covers(k, message.path) for k in kept):
                del self.messages[message.message_id]
