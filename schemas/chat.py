"""What the agent and a model client pass to each other; plain values, no I/O.

These are turnstream's own forms. A client in `connectors/models` turns them into what its server
reads, and what its server sends into them. `Delta` is the unit of the hot path: a client passes a
list of them per network read.
"""

from __future__ import annotations

from typing import Literal

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
    """A tool as it is described to a model; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, object]


class TextPart(msgspec.Struct, frozen=True):
    """Text in a message of several parts."""

    text: str


class ImagePart(msgspec.Struct, frozen=True):
    """An image: its address or `data:` URL. `detail` is how closely to look, "" for any."""

    url: str
    detail: str = ""


class OtherPart(msgspec.Struct, frozen=True):
    """A part of another kind; `fields` are as the user gave them, `type` among them."""

    fields: dict[str, object]


Content = str | tuple[TextPart | ImagePart | OtherPart, ...]


class Instruction(msgspec.Struct, frozen=True):
    """What the deployment or the application tells the model."""

    content: Content


class UserMessage(msgspec.Struct, frozen=True):
    """What the user says."""

    content: Content


class RequestedCall(msgspec.Struct, frozen=True):
    """A tool call that the model asked for; `arguments` are the values, not their JSON text."""

    id: str
    name: str
    arguments: dict[str, object]


class AssistantMessage(msgspec.Struct, frozen=True):
    """An earlier answer of the model."""

    text: str
    calls: tuple[RequestedCall, ...] = ()


class CallResult(msgspec.Struct, frozen=True):
    """What a tool call came to, as text; `call_id` is the id of its `RequestedCall`."""

    call_id: str
    text: str


ChatMessage = Instruction | UserMessage | AssistantMessage | CallResult


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One model call.

    In `messages` each `RequestedCall` is followed by its `CallResult` before any other message.
    `model` "" means the client's own. `params` are settings of the answer by name: `temperature`,
    `top_p`, `max_tokens`, `seed`; the client passes any other to the server as it is. `request_id`
    is for the server's log.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    model: str = ""
    params: dict[str, object] = msgspec.field(default_factory=dict)
    request_id: str = ""


class ChatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when an answer is whole; its text went through the deltas.

    `finish_reason` is the server's word for why the answer ended; events and checkpoints keep it.
    `at_limit`: the answer is as long as the request or the model allows. `request_sha256` (hex) is
    over the body of the request that was answered; `usage` is None where the server counts nothing.
    """

    finish_reason: str
    model: str
    request_sha256: str
    at_limit: bool = False
    usage: Usage | None = None
