"""What the agent and a model client say to each other; plain values, no I/O.

`Delta` is the unit of the hot path: a client hands over a list of them per network read.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from turnstream.schemas.records.events import Usage

DeltaKind = Literal["text", "reasoning", "tool_args"]


class Delta(msgspec.Struct, frozen=True, gc=False):
    """A piece of an answer, in the order in which the server sent it.

    `index` numbers the tool calls of one answer from 0 on. `tool_call_id` and the whole `tool_name`
    come with a call's first delta, whose `text` may be empty; the id is "" where the server gives
    none. Text has no half characters.
    """

    kind: DeltaKind
    text: str
    index: int = 0
    tool_call_id: str = ""
    tool_name: str = ""


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as a model is told of it; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One model call. `messages` are in the wire form of the chat completions API.

    `model` "" means the client's own; `params` go into the request as they are (temperature,
    max_tokens, seed …); `request_id` is for the server's log.
    """

    messages: list[dict[str, Any]]
    tools: tuple[ToolSpec, ...] = ()
    model: str = ""
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    request_id: str = ""


class ChatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when an answer is whole; its text has gone through the deltas.

    `request_sha256` (hex) is over the body of the request that was answered; `usage` is None where
    the server counts nothing.
    """

    finish_reason: str
    model: str
    request_sha256: str
    usage: Usage | None = None
