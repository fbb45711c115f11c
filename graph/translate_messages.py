"""From LangChain messages to message events, in chunks as they come or given whole. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from turnstream.graph.values import text_of, to_json
from turnstream.schemas.events import MessageFinished, MessageStarted, Usage
from turnstream.schemas.fold import covers
from turnstream.schemas.transcript import text_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from turnstream.graph.ports import Emitter

Role = Literal["assistant", "tool", "user", "system"]
_ROLES: dict[str, Role] = {"human": "user", "system": "system", "tool": "tool"}
_REASONING = ("reasoning", "thinking")


@dataclass(slots=True)
class _Open:
    path: str
    model: str
    blocks: dict[tuple[str, Any], int] = field(default_factory=dict)
    text: dict[int, list[str]] = field(default_factory=dict)
    finish_reason: str = ""
    usage: dict[str, int] = field(default_factory=dict)

    def block(self, kind: str, index: Any) -> int:
        return self.blocks.setdefault((kind, index), len(self.blocks))


class Messages:
    """The messages that are being said, by id."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._open: dict[str, _Open] = {}

    def chunk(self, path: str, chunk: AIMessageChunk, model: str) -> None:
        """Take a piece of a streamed answer."""
        message_id = chunk.id or ""
        opened = self._open.get(message_id)
        if opened is None:
            if not _says_anything(chunk):
                return  # the empty piece that ends a stream already closed
            opened = self._start(path, message_id, "assistant", chunk.name or "", model)
        self._pieces(message_id, opened, chunk)
        response = chunk.response_metadata
        if response:
            opened.finish_reason = str(response.get("finish_reason") or opened.finish_reason)
            opened.model = str(response.get("model_name") or opened.model)
        if chunk.usage_metadata:
            _count(opened.usage, chunk.usage_metadata)
        if getattr(chunk, "chunk_position", None) == "last":
            self._finish(message_id)

    def whole(self, path: str, message: BaseMessage, model: str) -> None:
        """Take a message that a node gave at once."""
        message_id = message.id or ""
        if message_id in self._open:
            self._finish(message_id)
            return
        role = _ROLES.get(message.type, "assistant")
        opened = self._start(path, message_id, role, message.name or "", model)
        if isinstance(message, AIMessage):
            response = message.response_metadata
            opened.finish_reason = str(response.get("finish_reason") or "")
            opened.model = str(response.get("model_name") or model)
            if message.usage_metadata:
                _count(opened.usage, message.usage_metadata)
            for kind, index, text in _contents(message):
                self._say(message_id, opened, kind, index, text)
            for index, call in enumerate(message.tool_calls):
                args = to_json(call["args"])
                self._say(
                    message_id,
                    opened,
                    "tool_args",
                    index,
                    args,
                    call=(call["id"] or "", call["name"]),
                )
        elif text := text_of(message.content):
            self._say(message_id, opened, "text", 0, text)
        self._finish(message_id)

    def finish_under(self, path: str) -> None:
        """End the messages that a task left open."""
        for message_id, opened in list(self._open.items()):
            if covers(path, opened.path):
                self._finish(message_id)

    def forget(self, path: str) -> None:
        """Drop the open messages of a task that runs again; finished tasks have none."""
        for message_id, opened in list(self._open.items()):
            if covers(path, opened.path):
                del self._open[message_id]

    def _start(self, path: str, message_id: str, role: Role, name: str, model: str) -> _Open:
        opened = self._open[message_id] = _Open(path, model)
        self._emitter.emit(MessageStarted, path=path, message_id=message_id, role=role, name=name)
        return opened

    def _pieces(self, message_id: str, opened: _Open, chunk: AIMessageChunk) -> None:
        content = chunk.content
        if isinstance(content, str):
            reasoning = chunk.additional_kwargs.get("reasoning_content")
            if reasoning:
                self._say(message_id, opened, "reasoning", 0, reasoning)
            if content:
                self._say(message_id, opened, "text", 0, content)
        else:
            for kind, index, text in _contents(chunk):
                self._say(message_id, opened, kind, index, text)
        for call in chunk.tool_call_chunks:
            self._say(
                message_id,
                opened,
                "tool_args",
                call.get("index") or 0,
                call.get("args") or "",
                call=(call.get("id") or "", call.get("name") or ""),
            )

    def _say(
        self,
        message_id: str,
        opened: _Open,
        kind: str,
        index: Any,
        text: str,
        *,
        call: tuple[str, str] = ("", ""),
    ) -> None:
        block = opened.block(kind, index)
        if kind == "text":
            opened.text.setdefault(block, []).append(text)
        self._emitter.tokens(
            path=opened.path,
            message_id=message_id,
            block=block,
            kind=kind,
            text=text,
            tool_call_id=call[0],
            tool_name=call[1],
        )

    def _finish(self, message_id: str) -> None:
        opened = self._open.pop(message_id)
        text = "".join("".join(opened.text[block]) for block in sorted(opened.text))
        usage = Usage(model=opened.model, **opened.usage) if opened.usage else None
        self._emitter.emit(
            MessageFinished,
            path=opened.path,
            message_id=message_id,
            finish_reason=opened.finish_reason,
            usage=usage,
            sha256=text_sha256(text),
        )


def _says_anything(chunk: AIMessageChunk) -> bool:
    return bool(
        chunk.content
        or chunk.tool_call_chunks
        or chunk.additional_kwargs
        or chunk.usage_metadata
        or getattr(chunk, "chunk_position", None) != "last"
    )


def _contents(message: BaseMessage) -> Iterator[tuple[str, Any, str]]:
    """Yield (kind, index, text) of a message's content, tool calls left out."""
    reasoning = message.additional_kwargs.get("reasoning_content")
    if reasoning:
        yield "reasoning", 0, reasoning
    if isinstance(message.content, str):
        if message.content:
            yield "text", 0, message.content
        return
    for place, block in enumerate(message.content):
        if isinstance(block, str):
            yield "text", place, block
            continue
        index = block.get("index", place)
        if isinstance(text := block.get("text"), str):
            yield "text", index, text
        elif block.get("type") in _REASONING:
            text = block.get("reasoning") or block.get("thinking") or ""
            if isinstance(text, str) and text:
                yield "reasoning", index, text


def _count(total: dict[str, int], usage: Mapping[str, Any]) -> None:
    details = (
        ("input_tokens", usage.get("input_tokens")),
        ("output_tokens", usage.get("output_tokens")),
        ("reasoning_tokens", (usage.get("output_token_details") or {}).get("reasoning")),
        ("cached_tokens", (usage.get("input_token_details") or {}).get("cache_read")),
    )
    for name, count in details:
        if count:
            total[name] = total.get(name, 0) + count
