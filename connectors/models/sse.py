"""From the bytes of a chat-completions stream to deltas; pure.

Reads what vLLM, llama.cpp, Ollama and TGI send: server-sent events whose data is a
`chat.completion.chunk`, an error object, or `[DONE]`. Bytes may be cut anywhere.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from turnstream.schemas.chat import Delta
from turnstream.schemas.errors import ModelBadResponseError
from turnstream.schemas.events import Usage

EVENT_BYTES_MAX = 1 << 20


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class DeltaParser:
    """Collects one answer: `feed` gives the deltas of some bytes, the rest is read at the end.

    `feed` raises `ModelBadResponseError` for what is no chunk, and for an event above 1 MiB. An
    error object of the server ends the reading and stands in `error`.
    """

    __slots__ = ("_data", "_rest", "done", "error", "finish_reason", "model", "seen", "usage")

    def __init__(self) -> None:
        self.finish_reason = ""
        self.usage: Usage | None = None
        self.model = ""
        self.error: Any = None
        self.done = False  # [DONE] was read
        self.seen = 0  # chunks read; comments do not count
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[Delta]:
        """Return the deltas of the events that these bytes complete, in order."""
        deltas: list[Delta] = []
        lines = (self._rest + data if self._rest else data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif self._data and line in (b"", b"\r"):
                event, self._data = b"\n".join(self._data), []
                self._event(event, deltas)
        if len(self._rest) + sum(map(len, self._data)) > EVENT_BYTES_MAX:
            raise ModelBadResponseError(f"the model server sent an event above {EVENT_BYTES_MAX} B")
        return deltas

    def _event(self, data: bytes, deltas: list[Delta]) -> None:
        if self.done or self.error is not None:
            return
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if data.strip() == b"[DONE]":
                self.done = True
                return
            chunk = _decode_leniently(data)
        self.seen += 1
        if chunk.error is not None:
            self.error = chunk.error
            return
        if chunk.choices:
            choice = chunk.choices[0]
            if choice.delta is not None:
                _collect(choice.delta, deltas)
            if choice.finish_reason:
                self.finish_reason = choice.finish_reason
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage, chunk.model or self.model)
        if not self.model and chunk.model:
            self.model = chunk.model


def _collect(delta: _Delta, deltas: list[Delta]) -> None:
    if text := delta.reasoning_content or delta.reasoning:
        deltas.append(Delta("reasoning", text))
    if delta.content:
        deltas.append(Delta("text", delta.content))
    if delta.tool_calls:
        for call in delta.tool_calls:
            function = call.function or _Function()
            args = function.arguments or ""
            if not isinstance(args, str):  # Ollama and old TGI send the object itself
                args = msgspec.json.encode(args).decode()
            if args or call.id or function.name:
                deltas.append(
                    Delta("tool_args", args, call.index, call.id or "", function.name or "")
                )


def _usage(wire: _Usage, model: str) -> Usage:
    prompt, completion = wire.prompt_tokens_details, wire.completion_tokens_details
    return Usage(
        model=model,
        input_tokens=wire.prompt_tokens or 0,
        output_tokens=wire.completion_tokens or 0,
        reasoning_tokens=(completion.reasoning_tokens or 0) if completion else 0,
        cached_tokens=(prompt.cached_tokens or 0) if prompt else 0,
    )


def _decode_leniently(data: bytes) -> _Chunk:
    r"""Decode what msgspec refuses and Python reads: a lone `\ud800` becomes U+FFFD."""
    try:
        value = json.loads(data)
        return msgspec.convert(_without_surrogates(value), _Chunk)
    except (ValueError, RecursionError) as error:
        start = data[:120].decode("utf-8", "replace")
        raise ModelBadResponseError(f"the model server sent no chunk: {start}") from error


def _without_surrogates(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False)
    if text.isascii():
        return value
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
