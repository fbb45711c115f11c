"""One answer of a model: its deltas go to the emitter as they come, and become one message."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, cast

import msgspec
from langchain_core.messages import AIMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call

from turnstream.schemas.fold.messages import Message, usage_metadata
from turnstream.schemas.limits import DEPTH_MAX, depth_of
from turnstream.schemas.records.events import MessageFinished, MessageStarted
from turnstream.schemas.text import clean_json, clean_text, text_sha256

if TYPE_CHECKING:
    from langchain_core.messages import InvalidToolCall, ToolCall
    from langchain_core.messages.ai import UsageMetadata

    from turnstream.graph.ports.emitter import Emitter
    from turnstream.schemas.chat import ChatAnswer, Delta
    from turnstream.schemas.fold.messages import Block


class Answer:
    """Emits an answer's deltas as they come; `push` is the hot path.

    Blocks are numbered in the order in which they begin. `taken` are the tool-call ids of the
    history. An id that a server repeats or leaves out is replaced by one made of the message's id,
    so that a run after a crash makes the same.
    """

    def __init__(self, emitter: Emitter, path: str, message_id: str, taken: set[str]) -> None:
        self.message_id = message_id
        self._emitter = emitter
        self._path = path
        self._taken = taken
        self._message = Message(message_id, path=path)
        self._calls: dict[int, Block] = {}
        self._open: Block | None = None  # the block of the delta before, unless a tool call's

    def push(self, deltas: list[Delta]) -> None:
        """Emit the deltas of one network read."""
        tokens = self._emitter.tokens
        for delta in deltas:
            kind = delta.kind
            block = self._open
            if block is None or block.kind != kind:
                if not self._message.blocks:
                    self._start()
                if kind == "tool_args":
                    self._tool_args(delta)
                    continue
                block = self._open = self._new(kind)
            text = delta.text
            if "\x00" in text:  # Postgres takes no NUL; the digest must hold for what is kept
                text = text.replace("\x00", "\ufffd")
            block.parts.append(text)
            tokens(
                path=self._path,
                message_id=self.message_id,
                block=block.index,
                kind=kind,
                text=text,
            )

    def _start(self) -> None:
        self._emitter.emit(
            MessageStarted, path=self._path, message_id=self.message_id, role="assistant", name=""
        )

    def _new(self, kind: str) -> Block:
        return self._message.add(len(self._message.blocks), kind, "")

    def _tool_args(self, delta: Delta) -> None:
        self._open = None
        block = self._calls.get(delta.index)
        first = block is None
        if block is None:
            block = self._calls[delta.index] = self._new("tool_args")
            block.tool_call_id = self._call_id(delta.tool_call_id, block.index)
            block.tool_name = delta.tool_name
        text = delta.text.replace("\x00", "\ufffd")
        block.parts.append(text)
        self._emitter.tokens(
            path=self._path,
            message_id=self.message_id,
            block=block.index,
            kind="tool_args",
            text=text,
            tool_call_id=block.tool_call_id if first else "",
            tool_name=block.tool_name if first else "",
        )

    def _call_id(self, given: str, index: int) -> str:
        if not given or given in self._taken:
            given = f"call_{uuid.uuid5(uuid.UUID(self.message_id), str(index)).hex[:24]}"
        self._taken.add(given)
        return given

    def finish(self, answer: ChatAnswer, params: dict[str, Any]) -> AIMessage:
        """Emit `MessageFinished` and return the message."""
        if not self._message.blocks:
            self._start()
        text = self._message.text
        self._emitter.emit(
            MessageFinished,
            path=self._path,
            message_id=self.message_id,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            sha256=text_sha256(text),
            request_sha256=answer.request_sha256,
            params=msgspec.json.encode(params).decode() if params else "",
        )
        reasoning = self._message.reasoning
        calls, bad = self._tool_calls(cut=answer.at_limit)
        return AIMessage(
            content=clean_text(text),
            id=self.message_id,
            additional_kwargs={"reasoning_content": clean_text(reasoning)} if reasoning else {},
            response_metadata={
                "model_name": answer.model,
                "finish_reason": answer.finish_reason,
                "request_sha256": answer.request_sha256,
            },
            tool_calls=calls,
            invalid_tool_calls=bad,
            usage_metadata=cast("UsageMetadata | None", usage_metadata(answer.usage)),
        )

    def _tool_calls(self, *, cut: bool) -> tuple[list[ToolCall], list[InvalidToolCall]]:
        last = next(reversed(self._message.blocks.values()), None)
        calls: list[ToolCall] = []
        bad: list[InvalidToolCall] = []
        for block in self._message.calls:
            raw = clean_text(block.text)
            try:
                arguments = _arguments(raw, missing=cut and block is last)
            except ValueError as error:
                bad.append(
                    invalid_tool_call(
                        name=block.tool_name,
                        args=raw,
                        id=block.tool_call_id,
                        error=f"no JSON object: {error}",
                    )
                )
            else:
                calls.append(tool_call(name=block.tool_name, args=arguments, id=block.tool_call_id))
        return calls, bad


def _arguments(raw: str, *, missing: bool) -> dict[str, Any]:
    """Return a call's arguments; raises `ValueError`. A call without any has an empty object."""
    if not raw.strip():
        if missing:
            raise ValueError("the answer's limit came before the arguments")
        return {}
    if depth_of(raw) > DEPTH_MAX:
        raise ValueError(f"nested more than {DEPTH_MAX} levels deep")
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except ValueError:
        if "\\u" not in raw:
            raise
    # halves of characters, which Python reads and msgspec does not
    found = clean_json(json.loads(raw))
    if not isinstance(found, dict):
        raise ValueError("another kind of value")  # noqa: TRY004  it is caught as such
    return found
