"""The body of a chat-completions request; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from turnstream.schemas.text import clean_json

if TYPE_CHECKING:
    from turnstream.schemas.chat import ChatRequest


def request_body(request: ChatRequest, model: str) -> bytes:
    """Return the request's bytes; lone surrogates become U+FFFD, for JSON is UTF-8."""
    body: dict[str, Any] = {
        "model": model,
        "messages": request.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                },
            }
            for tool in request.tools
        ]
    body |= request.params
    if not body["stream"]:
        del body["stream_options"]  # servers refuse one without the other
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return msgspec.json.encode(clean_json(body))
