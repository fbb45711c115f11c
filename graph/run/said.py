"""What a turn has said, for its end and for the next attempt. Pure; wraps the emitter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnstream.schemas.fold.fold import covers, is_kept
from turnstream.schemas.fold.messages import Message
from turnstream.schemas.records.events import (
    InputRequested,
    Interrupt,
    MessageFinished,
    MessageStarted,
    TaskRetried,
    Usage,
)
from turnstream.schemas.records.results import Carried

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from turnstream.graph.ports.emitter import Emitter
    from turnstream.schemas.records.events import Event, Keep


class Said:
    """An emitter that passes everything on and remembers the text blocks of messages.

    `carried` is what earlier attempts at the turn handed on. `retried` counts tasks that ran again.
    After `close` nothing that the graph emits is passed on, because its tasks are being stopped
    (W7). The attempt can still `add` events of its own.
    """

    def __init__(self, emitter: Emitter, carried: Carried | None = None) -> None:
        self._emitter = emitter
        self._shut = False
        self._before = carried or Carried()
        self._lost: list[Usage] = []
        self.messages: dict[str, Message] = {}
        self.questions: dict[str, Interrupt] = {}
        self.retried = 0

    @property
    def closed(self) -> bool:
        """Whether events are dropped."""
        return self._shut or self._emitter.closed

    def close(self) -> None:
        """Drop what the graph emits from now on."""
        self._shut = True

    def emit(self, event_type: type[Event], *, path: str, **fields: Any) -> int:
        """Pass an event on."""
        if self._shut:
            return 0
        n = self._emitter.emit(event_type, path=path, **fields)
        if event_type is MessageStarted:
            message_id = fields["message_id"]
            self.messages.pop(message_id, None)
            role = fields.get("role", "assistant")
            self.messages[message_id] = Message(message_id, role, path=path, n=n)
        elif event_type is MessageFinished:
            message = self.messages.get(fields["message_id"])
            if message is not None:
                message.finished_n = n
                message.usage = fields.get("usage")
        elif event_type is InputRequested:
            asked = {name: fields[name] for name in ("payload", "response_schema", "expires_at")}
            self.questions[fields["interrupt_id"]] = Interrupt(id=fields["interrupt_id"], **asked)
        elif event_type is TaskRetried:
            self.retried += 1
            self._take_back(path, fields.get("keep", ()))
        return n

    def add(self, event_type: type[Event], *, path: str, **fields: object) -> None:
        """Pass on an event of the attempt's own, also after `close`."""
        self._emitter.emit(event_type, path=path, **fields)

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
            known = message.blocks.get(block)
            if known is None:
                message.add(block, kind, text)
            else:
                known.parts.append(text)

    def answer(self) -> Message | None:
        """Return the last whole assistant message with text."""
        for message in reversed(self.messages.values()):
            if message.finished and message.role == "assistant" and message.blocks:
                return message
        return None

    def usage(self) -> list[Usage]:
        """Return the tokens of the calls whose answers stand, one entry a model."""
        return summed([*self._before.usage, *(m.usage for m in self.messages.values() if m.usage)])

    def lost_usage(self) -> list[Usage]:
        """Return the tokens of the calls whose answers were whole and taken back."""
        return summed([*self._before.lost_usage, *self._lost])

    @property
    def last_before(self) -> str:
        """Id of the last message with text that earlier attempts left standing, or ""."""
        return self._before.message_id

    def carried(self, keep_n: int, keep: Sequence[Keep]) -> Carried:
        """Return what the next attempt has to know if this one ends after a commit with `keep`."""
        usage, lost = list(self._before.usage), [*self._before.lost_usage, *self._lost]
        last = self._before.message_id
        for message in self.messages.values():
            if not message.finished:
                continue
            stands = message.finished_n <= keep_n or is_kept(message.path, message.finished_n, keep)
            if message.usage is not None:
                (usage if stands else lost).append(message.usage)
            if stands and message.blocks and message.role == "assistant":
                last = message.message_id
        return Carried(usage=summed(usage), lost_usage=summed(lost), message_id=last)

    def _take_back(self, path: str, keep: Sequence[Keep]) -> None:
        for message in list(self.messages.values()):
            if covers(path, message.path) and not is_kept(message.path, message.n, keep):
                del self.messages[message.message_id]
                if message.usage is not None:
                    self._lost.append(message.usage)


def summed(usages: Iterable[Usage]) -> list[Usage]:
    """Return one entry a model, in the order in which the models come; estimates apart."""
    totals: dict[tuple[str, bool], Usage] = {}
    for one in usages:
        key = (one.model, one.estimated)
        sum_ = totals.get(key)
        totals[key] = (
            one
            if sum_ is None
            else Usage(
                model=one.model,
                input_tokens=sum_.input_tokens + one.input_tokens,
                output_tokens=sum_.output_tokens + one.output_tokens,
                reasoning_tokens=sum_.reasoning_tokens + one.reasoning_tokens,
                cached_tokens=sum_.cached_tokens + one.cached_tokens,
                estimated=one.estimated,
            )
        )
    return list(totals.values())
