"""What a model server's error means: from status and body to an error of ours; pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from turnstream.schemas.errors import (
    ModelContextError,
    ModelError,
    ModelOverloadedError,
    ModelRefusedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

MESSAGE_CHARS_MAX = 500
_CLIENT, _SERVER = 4, 5  # classes of HTTP status
_RETRYABLE = frozenset({408, 409, 425, 429})
# vLLM and OpenAI; llama.cpp; TGI; SGLang
_CONTEXT = re.compile(
    r"context_length_exceeded|maximum context length|exceed_context_size|available context size"
    r"|max_new_tokens` must be|longer than the model's context|max_model_len",
    re.IGNORECASE,
)


def error_of_response(status: int, body: bytes, headers: Mapping[str, str]) -> ModelError:
    """Return the error of an answer whose status is not 200."""
    return _error(status, _text(body), _seconds(headers.get("retry-after", "")))


def error_of_event(error: Any) -> ModelError:
    """Return the error of an error object in mid-stream; without a status it counts as a 500."""
    status = 500
    if isinstance(error, dict):
        for name in ("code", "status_code", "status"):
            value = error.get(name)
            if isinstance(value, int) and value // 100 in (_CLIENT, _SERVER):
                status = value
                break
    return _error(status, _text(msgspec.json.encode(error)), 0.0)


def _error(status: int, text: str, retry_after_s: float) -> ModelError:
    message = f"the model server answered {status}: {text[:MESSAGE_CHARS_MAX]}".rstrip(": ")
    if status // 100 == _CLIENT and _CONTEXT.search(text):
        return ModelContextError(message)
    code = f"model_http_{status}"
    if status // 100 == _SERVER or status in _RETRYABLE:
        return ModelOverloadedError(message, code=code, retry_after_s=retry_after_s)
    return ModelRefusedError(message, code=code)


def _text(body: bytes) -> str:
    """Return the message of an error body, or the body where it has none."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "replace").strip()
    if isinstance(value, dict):
        inner = value.get("error", value)
        if isinstance(inner, dict):
            parts = [inner.get(name) for name in ("type", "code", "message")]
            named = [part for part in parts if isinstance(part, str) and part]
            if named:
                return " ".join(named)
        if isinstance(inner, str):
            return inner
    return body.decode("utf-8", "replace").strip()


def _seconds(text: str) -> float:
    """Return the seconds of a Retry-After header; 0 for a date, which no model server sends."""
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
