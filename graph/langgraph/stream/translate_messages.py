"""From LangChain messages to message events, in chunks as they come or given whole. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ToolMessage,
)

from turnstream.graph.langgraph.stream.message_content import contents, says_anything
from turnstream.graph.langgraph.stream.message_extra import metadata_of, streamed_extra, whole_extra
from turnstream.graph.langgraph.stream.open_message import OpenMessage
from turnstream.graph.langgraph.stream.translate_paths import graph_namespace
from turnstream.graph.langgraph.stream.usage import counted, estimated
from turnstream.graph.values import text_of, to_json
from turnstream.schemas.fold.fold import covers
from turnstream.schemas.fold.messages import Message
from turnstream.schemas.records.events import MessageFinished, MessageStarted
from turnstream.schemas.text import text_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.graph.langgraph.stream.translate_paths import Paths
    from turnstream.graph.ports.emitter import Emitter

Role = Literal["assistant", "tool", "user", "system"]
_ROLES: dict[str, Role] = {"human": "user", "system": "system", "tool": "tool"}


class Messages:
    """The messages that are being said, by id. `said` has the path of each one of the attempt."""

    def __init__(self, emitter: Emitter, paths: Paths) -> None:
        self._emitter = emitter
        self._paths = paths
        self._open: dict[str, OpenMessage] = {}
        self.said: dict[str, str] = {}
        self.prompts: dict[str, int] = {}
        """About how many tokens the last prompt of a task had, by its namespace."""

    def chunk(self, chunk: AIMessageChunk, meta: Mapping[str, object]) -> None:
        """Take a piece of a streamed answer."""
        message_id = chunk.id or ""
        opened = self._open.get(message_id)
        if opened is None:
            if not says_anything(chunk):
                return  # the empty piece that ends a stream already closed
            opened = self._start(chunk, meta)
        self._pieces(message_id, opened, chunk)
        if chunk.response_metadata:
            opened.add_response(chunk.response_metadata)
        if chunk.usage_metadata:
            opened.add_usage(chunk.usage_metadata)
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
                opened.add_usage(message.usage_metadata)
            for kind, index, text in contents(message):
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

    def _start(self, message: BaseMessage, meta: Mapping[str, object]) -> OpenMessage:
        namespace, message_id = str(meta.get("langgraph_checkpoint_ns") or ""), message.id or ""
        above = self._paths.of(graph_namespace(meta))
        task_id = namespace.rpartition("|")[2].rpartition(":")[2]
        path = self._paths.of_namespace(namespace) if not above else f"{above}|{task_id}"
        opened = self._open[message_id] = OpenMessage(
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
            metadata=metadata_of(meta),
            **fields,
        )
        return opened

    def _pieces(self, message_id: str, opened: OpenMessage, chunk: AIMessageChunk) -> None:
        content = chunk.content
        if isinstance(content, str):
            if chunk.additional_kwargs:
                reasoning = chunk.additional_kwargs.get("reasoning_content")
                if reasoning:
                    self._say(message_id, opened, "reasoning", 0, reasoning)
                opened.add_kwargs(chunk.additional_kwargs)
            if content:
                self._say(message_id, opened, "text", 0, content)
        else:
            opened.listed.append(content)
            for kind, index, text in contents(chunk):
                self._say(message_id, opened, kind, index, text)
        for call in chunk.tool_call_chunks:
            about = (call.get("id") or "", call.get("name") or "")
            number = opened.call(call.get("index"), *about)
            self._say(message_id, opened, "tool_args", number, call.get("args") or "", call=about)

    def _say(
        self,
        message_id: str,
        opened: OpenMessage,
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
            extra=whole_extra(whole) if whole is not None else streamed_extra(opened),
        )
