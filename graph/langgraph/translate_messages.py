"""From LangChain messages to message events, in chunks as they come or given whole. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ToolMessage,
    merge_content,
)

from turnstream.graph.langgraph.translate_paths import graph_namespace
from turnstream.graph.langgraph.usage import counted, estimated
from turnstream.graph.values import is_small, text_of, to_json
from turnstream.schemas.fold.fold import covers
from turnstream.schemas.fold.messages import Message
from turnstream.schemas.records.events import MessageFinished, MessageStarted
from turnstream.schemas.text import text_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from turnstream.graph.langgraph.translate_paths import Paths
    from turnstream.graph.ports.emitter import Emitter

Role = Literal["assistant", "tool", "user", "system"]
_ROLES: dict[str, Role] = {"human": "user", "system": "system", "tool": "tool"}
_REASONING = ("reasoning", "thinking")
_TOLD = frozenset({"type", "id", "name", "tool_calls", "invalid_tool_calls", "tool_call_id"})
"""Fields of a message that its events tell in fields and blocks of their own."""
_SAID_BLOCKS = frozenset({"text", *_REASONING, "tool_use", "tool_call", "input_json_delta"})
METADATA_BYTES_MAX = 16 << 10
"""Of a message's metadata; with more, what the run's own metadata adds is left out."""
EXTRA_BYTES_MAX = 256 << 10
"""Of what a message holds beside its blocks (pictures, artifacts); with more it is left out."""


@dataclass(slots=True)
class _Open:
    """What LangChain tells of a message beside `message`, which has its text blocks."""

    message: Message
    model: str = ""
    modelled: bool = False
    listed: list[Any] = field(default_factory=list)
    blocks: dict[tuple[str, Any], int] = field(default_factory=dict)
    calls: dict[Any, tuple[int, str]] = field(default_factory=dict)
    calls_begun: int = 0
    response: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0

    def block(self, kind: str, index: object) -> int:
        return self.blocks.setdefault((kind, index), len(self.blocks))

    def call(self, index: object, call_id: str, name: str) -> int:
        """Return the number of the tool call that a piece belongs to.

        Servers give pieces of different calls one index, or none: another id with a name is another
        call. A piece without an index goes on with the last call.
        """
        known = self.calls.get(index)
        if known is None and index is None and self.calls_begun and not (call_id and name):
            known = self.calls.get(None) or next(reversed(self.calls.values()))
        if known is not None and not (call_id and name and known[1] and call_id != known[1]):
            if call_id and not known[1]:
                self.calls[index] = (known[0], call_id)
            return known[0]
        number, self.calls_begun = self.calls_begun, self.calls_begun + 1
        self.calls[index] = (number, call_id)
        return number


class Messages:
    """The messages that are being said, by id. `said` has the path of each one of the attempt."""

    def __init__(self, emitter: Emitter, paths: Paths) -> None:
        self._emitter = emitter
        self._paths = paths
        self._open: dict[str, _Open] = {}
        self.said: dict[str, str] = {}
        self.prompts: dict[str, int] = {}
        """About how many tokens the last prompt of a task had, by its namespace."""

    def chunk(self, chunk: AIMessageChunk, meta: Mapping[str, object]) -> None:
        """Take a piece of a streamed answer."""
        message_id = chunk.id or ""
        opened = self._open.get(message_id)
        if opened is None:
            if not _says_anything(chunk):
                return  # the empty piece that ends a stream already closed
            opened = self._start(chunk, meta)
        self._pieces(message_id, opened, chunk)
        if chunk.response_metadata:
            _merge(opened.response, chunk.response_metadata)
        if chunk.usage_metadata:
            _count(opened.usage, chunk.usage_metadata)
        if getattr(chunk, "chunk_position", None) == "last":
            self._finish(message_id)

    def whole(self, message: BaseMessage, meta: Mapping[str, object]) -> None:
        """Take a message that a node or a model gave at once."""
        message_id = message.id or ""
        if message_id in self._open:
            self._finish(message_id)
            return
        opened = self._start(message, meta)
        if isinstance(message, AIMessage):
            opened.response = dict(message.response_metadata)
            if message.usage_metadata:
                _count(opened.usage, message.usage_metadata)
            for kind, index, text in _contents(message):
                self._say(message_id, opened, kind, index, text)
            for number, call in enumerate(message.tool_calls):
                about = (call["id"] or "", call["name"])
                self._say(
                    message_id, opened, "tool_args", number, to_json(call["args"]), call=about
                )
        elif text := text_of(message.content):
            self._say(message_id, opened, "text", 0, text)
        self._finish(message_id, message)

    def finish_under(self, path: str) -> None:
        """End the messages that a task left open."""
        for message_id, opened in list(self._open.items()):
            if covers(path, opened.message.path):
                self._finish(message_id)

    def forget(self, path: str) -> None:
        """Drop the messages of a task that runs again; finished tasks have no open ones."""
        for message_id, opened in list(self._open.items()):
            if covers(path, opened.message.path):
                del self._open[message_id]

    def _start(self, message: BaseMessage, meta: Mapping[str, object]) -> _Open:
        namespace, message_id = str(meta.get("langgraph_checkpoint_ns") or ""), message.id or ""
        above = self._paths.of(graph_namespace(meta))
        task_id = namespace.rpartition("|")[2].rpartition(":")[2]
        path = self._paths.of_namespace(namespace) if not above else f"{above}|{task_id}"
        opened = self._open[message_id] = _Open(
            Message(message_id, path=path),
            model=str(meta.get("ls_model_name") or ""),
            modelled="ls_model_type" in meta,
            prompt_tokens=self.prompts.get(namespace, 0),
        )
        self.said[message_id] = path
        fields: dict[str, Any] = {"whole": not isinstance(message, AIMessageChunk)}
        if isinstance(message, ToolMessage):
            fields["tool_call_id"] = message.tool_call_id
        if isinstance(message.content, list) and isinstance(message, AIMessageChunk):
            fields["listed"] = True
        self._emitter.emit(
            MessageStarted,
            path=path,
            message_id=message_id,
            role=_ROLES.get(message.type, "assistant"),
            name=message.name or "",
            metadata=_metadata(meta),
            **fields,
        )
        return opened

    def _pieces(self, message_id: str, opened: _Open, chunk: AIMessageChunk) -> None:
        content = chunk.content
        if isinstance(content, str):
            if chunk.additional_kwargs:
                reasoning = chunk.additional_kwargs.get("reasoning_content")
                if reasoning:
                    self._say(message_id, opened, "reasoning", 0, reasoning)
                _merge(opened.kwargs, chunk.additional_kwargs)
            if content:
                self._say(message_id, opened, "text", 0, content)
        else:
            opened.listed.append(content)
            for kind, index, text in _contents(chunk):
                self._say(message_id, opened, kind, index, text)
        for call in chunk.tool_call_chunks:
            about = (call.get("id") or "", call.get("name") or "")
            number = opened.call(call.get("index"), *about)
            self._say(message_id, opened, "tool_args", number, call.get("args") or "", call=about)

    def _say(
        self,
        message_id: str,
        opened: _Open,
        kind: str,
        index: object,
        text: str,
        *,
        call: tuple[str, str] = ("", ""),
    ) -> None:
        block = opened.block(kind, index)
        if kind == "text":
            opened.message.add(block, kind, text)
        self._emitter.tokens(
            path=opened.message.path,
            message_id=message_id,
            block=block,
            kind=kind,
            text=text,
            tool_call_id=call[0],
            tool_name=call[1],
        )

    def _finish(self, message_id: str, whole: BaseMessage | None = None) -> None:
        opened = self._open.pop(message_id)
        text = opened.message.text
        model = str(opened.response.get("model_name") or opened.model)
        usage = counted(model, opened.usage)
        if usage is None and opened.modelled:
            usage = estimated(model, opened.prompt_tokens, text)
        self._emitter.emit(
            MessageFinished,
            path=opened.message.path,
            message_id=message_id,
            finish_reason=str(opened.response.get("finish_reason") or ""),
            usage=usage,
            sha256=text_sha256(text),
            extra=_extra_of(whole) if whole is not None else _extra(opened),
        )


def _metadata(meta: Mapping[str, object]) -> str:
    if not is_small(meta, METADATA_BYTES_MAX):
        meta = {key: meta[key] for key in meta if key.startswith(("langgraph_", "ls_", "check"))}
    return to_json(meta)


def _extra(opened: _Open) -> str:
    extra: dict[str, Any] = {
        "response_metadata": opened.response,
        "usage_metadata": opened.usage or None,
        "additional_kwargs": {
            key: item for key, item in opened.kwargs.items() if key != "reasoning_content"
        },
    }
    if opened.listed:
        content = merge_content("", *opened.listed)
        unsaid = [one for one in content if not _is_said(one)] if isinstance(content, list) else []
        if unsaid:
            extra["content"] = unsaid
    return _small(extra)


def _is_said(block: str | dict[str, Any]) -> bool:
    return isinstance(block, str) or block.get("type") in _SAID_BLOCKS


def _extra_of(message: BaseMessage) -> str:
    extra = {key: item for key, item in message.model_dump().items() if key not in _TOLD}
    if isinstance(message.content, str):
        del extra["content"]
    return _small(extra)


def _small(extra: dict[str, object]) -> str:
    for leave_out in ("", "artifact", "content", "additional_kwargs", "response_metadata"):
        extra.pop(leave_out, None)
        if is_small(extra, EXTRA_BYTES_MAX) and len(text := to_json(extra)) <= EXTRA_BYTES_MAX:
            return text
    return "{}"


def _says_anything(chunk: AIMessageChunk) -> bool:
    return bool(
        chunk.content
        or chunk.tool_call_chunks
        or chunk.additional_kwargs
        or chunk.usage_metadata
        or getattr(chunk, "chunk_position", None) != "last"
    )


def _contents(message: BaseMessage) -> Iterator[tuple[str, int | str, str]]:
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
        index = block.get("index")
        if not isinstance(index, (int, str)):
            index = place
        if isinstance(text := block.get("text"), str):
            yield "text", index, text
        elif block.get("type") in _REASONING:
            text = block.get("reasoning") or block.get("thinking") or ""
            if isinstance(text, str) and text:
                yield "reasoning", index, text


def _merge(total: dict[str, object], more: Mapping[str, object]) -> None:
    """Add what a chunk says beside its text, as LangChain adds chunks: texts are joined."""
    for key, value in more.items():
        known = total.get(key)
        if known is None:
            total[key] = value
        elif value is None or value is known:
            continue
        elif isinstance(known, str) and isinstance(value, str):
            total[key] = known if known == value else known + value
        elif isinstance(known, dict) and isinstance(value, dict):
            total[key] = joined = dict(known)
            _merge(joined, value)
        elif isinstance(known, list) and isinstance(value, list):
            total[key] = [*known, *value]
        else:
            total[key] = value


def _count(total: dict[str, Any], usage: Mapping[str, object]) -> None:
    """Add a usage to the sum, details included."""
    for key, value in usage.items():
        if isinstance(value, dict):
            details = total.setdefault(key, {})
            _count(details, value)
        elif isinstance(value, int):
            total[key] = total.get(key, 0) + value
