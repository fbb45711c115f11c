"""The body of a chat-completions request; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from turnstream.schemas.chat import (
    AssistantMessage,
    CallResult,
    ImagePart,
    Instruction,
    OtherPart,
    TextPart,
    UserMessage,
)
from turnstream.schemas.text import clean_json

if TYPE_CHECKING:
    from turnstream.schemas.chat import ChatMessage, ChatRequest, Content, RequestedCall, ToolSpec

CHAT_PATH = "/chat/completions"
"""Below a server's base URL."""


def request_body(request: ChatRequest, model: str) -> bytes:
    """Return the request's bytes; lone surrogates become U+FFFD, because JSON is UTF-8."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    body |= request.params
    if not body["stream"]:
        del body["stream_options"]  # servers refuse one without the other
    return _json(body)


def _message(message: ChatMessage) -> dict[str, Any]:
    match message:
        case Instruction():
            return {"role": "system", "content": _content(message.content)}
        case UserMessage():
            return {"role": "user", "content": _content(message.content)}
        case AssistantMessage():
            entry: dict[str, Any] = {"role": "assistant", "content": message.text}
            if message.calls:
                entry["tool_calls"] = [_call(call) for call in message.calls]
            return entry
        case CallResult():
            return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    assert_never(message)


def _content(content: Content) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [_part(part) for part in content]


def _part(part: TextPart | ImagePart | OtherPart) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ImagePart():
            image = {"url": part.url} | ({"detail": part.detail} if part.detail else {})
            return {"type": "image_url", "image_url": image}
        case OtherPart():
            return part.fields
    assert_never(part)


def _call(call: RequestedCall) -> dict[str, Any]:
    arguments = _json(call.arguments).decode()
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        },
    }


def _json(value: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(clean_json(value))
