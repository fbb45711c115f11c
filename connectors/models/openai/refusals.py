"""What a model server's error means: from status and body to an error of ours; pure.

Clients see the server's message: its message field, at most 500 characters, without addresses and
keys. Of a body without such a field they see the status alone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec

from turnstream.schemas.errors import (
    InvalidRequestError,
    ModelContextError,
    ModelDeclinedError,
    ModelError,
    ModelOverloadedError,
    ModelRefusedError,
)
from turnstream.schemas.limits import check_depth
from turnstream.schemas.text import storable_text

if TYPE_CHECKING:
    from collections.abc import Mapping

MESSAGE_CHARS_MAX = 500
_READ_CHARS_MAX = 8000
"""Characters of an error's texts that are searched."""
_DEPTH_MAX = 5
_DIGITS = re.compile(r"\s*[0-9]{3}\s*")
_TOO_MANY = 429
_CLIENT, _SERVER = 4, 5  # classes of HTTP status
_RETRYABLE = frozenset({408, 409, 424, 425, 429})  # 424: TGI's generation failed
_UNKNOWN = 500  # the status of an error object without one
_MESSAGES = ("message", "error", "detail", "msg", "errors", "error_message", "error_msg",
             "status_msg", "error_description", "description", "reason", "title")  # fmt: skip
_STATUSES = (
    "code",
    "status_code",
    "status",
    "http_status_code",
    "http_code",
    "error_code",
    "error",
)
_WORDS = ("code", "type", "error_type", "status", "object")
_CONTEXT = re.compile(
    r"context_length_exceeded|exceed_context_size|ContextWindowExceeded|max_model_len"
    r"|maximum (?:context|model|prompt) length|longer than the (?:model's|maximum)"
    r"|`?max_new_tokens`? must be|`inputs` must have less than"
    r"|(?:prompt|input|request|conversation)s? (?:is|are) too long|prompt_too_long"
    r"|too many (?:input )?tokens|exceeded model token limit"
    r"|token count\b.{0,40}? exceeds|input length\b.{0,60}? exceeds?\b"
    r"|context[ _-]?(?:length|size|window|limit|the overflows)?\b.{0,80}?"
    r"(?:exceed|overflow|not enough|too (?:small|short))"
    r"|(?:exceed|overflow|(?:larger|longer|greater) than)\w*\b.{0,60}?"
    r"context[ _-]?(?:length|size|window|limit)"
    r"|reached (?:the )?context length|input is too long",
    re.IGNORECASE | re.DOTALL,
)
_DECLINED = re.compile(r"content_?(?:filter|policy)|responsible_?ai|moderation", re.IGNORECASE)
"""In the code or type of an error: a filter does not let the request, or the answer, pass."""
# the words of OpenAI, Anthropic, gRPC, TGI and LiteLLM where a status should stand
_STATUS_OF_WORDS = (
    (re.compile(r"rate.?limit|quota|too_many|resource_?exhausted|throttl", re.IGNORECASE), 429),
    (re.compile(r"overloaded|unavailable|unhealthy|capacity", re.IGNORECASE), 503),
    (re.compile(r"time_?out|deadline", re.IGNORECASE), 504),
    (re.compile(r"auth|api_?key|unauthorized", re.IGNORECASE), 401),
    (re.compile(r"permission|forbidden", re.IGNORECASE), 403),
    (re.compile(r"not_?found", re.IGNORECASE), 404),
    (re.compile(r"invalid|bad_?request|validation|exceed_context|context_length", re.IGNORECASE),
     400),
)  # fmt: skip
_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>)\]]+|\bwww\.[^\s'\"<>)\]]+"
    r"|\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|\b(?:localhost|(?:[\w-]+\.)+[a-z]{2,}):\d{2,5}\b",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"\b(?:sk|pk|hf|gsk|xai|ghp|gho|glpat|nvapi|key)[-_][-_A-Za-z0-9*.]{6,}"
    r"|\b(?:AIza|AKIA|eyJ)[-_A-Za-z0-9.]{8,}"
    r"|\b(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{32,}={0,2}"
)
_NAMED_KEY = re.compile(
    r"(\bbearer\s+|\bkey provided: *|\b(?:api[_ -]?key|password|secret)['\"]?\s*[=:]\s*['\"]?"
    r"|\b(?:key|token)=)[^\s,;&'\"]{4,}",
    re.IGNORECASE,
)


def error_of_response(
    status: int, body: bytes, headers: Mapping[str, str], *, key: str = ""
) -> ModelError:
    """Return the error of an answer whose status is not 2xx; `key` is not shown."""
    try:
        check_depth(body)
        value = msgspec.json.decode(body)
    except (ValueError, InvalidRequestError):
        text = body[:_READ_CHARS_MAX].decode("utf-8", "replace")  # read, but not shown
        return _error(status, "", text, retry_after_s(headers))
    return _judged(status, value, headers, key)


def error_of_event(error: object, headers: Mapping[str, str], *, key: str = "") -> ModelError:
    """Return the error of an error object in an answer; without a status it counts as a 500."""
    return _judged(_status(error) or _UNKNOWN, error, headers, key)


def error_in(value: Mapping[str, object]) -> Mapping[str, object] | None:
    """Return the error that an object is or holds, None where it is none.

    `value` is a chunk, or what came in its place: OpenAI's and vLLM's `{"error": …}`,
    `{"object": "error"}`, FastAPI's `{"detail": …}`, `{"message": …}`, `{"errors": […]}`.
    """
    error, answers = value.get("error"), bool(value.get("choices"))
    if error is not None and error is not False and (_says(error) or not answers):
        return value
    if answers:
        return None
    base = value.get("base_resp")  # MiniMax
    if isinstance(base, dict) and base.get("status_code"):
        return {"message": base.get("status_msg")}
    if "error" in (value.get("object"), value.get("type"), value.get("status")):
        return value
    named = ("message", "detail", "errors", "error_message", "error_msg", "msg")
    return value if any(_message(value.get(name), _DEPTH_MAX) for name in named) else None


def message_of(value: object, key: str = "") -> str:
    """Return the message of an error, fit to be shown; "" where it has none."""
    return shown(_message(value, _DEPTH_MAX), key)


def shown(text: str, key: str = "") -> str:
    """Return a foreign text without addresses and keys, on one line, 500 characters at most."""
    text = text[:_READ_CHARS_MAX]
    if key:
        text = text.replace(key, "[key]")
    text = _KEY.sub("[key]", _NAMED_KEY.sub(r"\1[key]", _ADDRESS.sub("[address]", text)))
    text = " ".join(storable_text(text).split())
    return text if len(text) <= MESSAGE_CHARS_MAX else text[: MESSAGE_CHARS_MAX - 1] + "…"


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds of a Retry-After header, which may be a date; 0 without one."""
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(text)
        return max(0.0, (at - datetime.now(at.tzinfo and UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _judged(status: int, value: object, headers: Mapping[str, str], key: str) -> ModelError:
    message = message_of(value, key)
    if any(_DECLINED.search(_words(level)) for level in _levels(value)):
        return ModelDeclinedError(f"the model server refused to answer: {message}".rstrip(": "))
    return _error(status, message, _texts(value), retry_after_s(headers))


def _error(status: int, message: str, texts: str, wait_s: float) -> ModelError:
    said = f"the model server answered {status}: {message}".rstrip(": ")
    is_failure = status != _TOO_MANY and status // 100 in (_CLIENT, _SERVER)
    if is_failure and _CONTEXT.search(texts):
        return ModelContextError(said)
    code = f"model_http_{status}"
    if status // 100 == _SERVER or status in _RETRYABLE:
        return ModelOverloadedError(said, code=code, retry_after_s=wait_s)
    return ModelRefusedError(said, code=code)


def _says(error: object) -> bool:
    """Return whether an `error` beside choices is one; some servers send it with empty fields."""
    if isinstance(error, dict):
        return any(_says(item) for item in error.values())
    return bool(error)


def _message(value: object, depth: int) -> str:
    if isinstance(value, str):
        return value
    if depth == 0:
        return ""
    if isinstance(value, list):
        found = (_message(item, depth - 1) for item in value[:8])
        return "; ".join(text for text in found if text)
    if isinstance(value, dict):
        inner = value.get("error")
        if isinstance(inner, (dict, list)) and (text := _message(inner, depth - 1)):
            return text
        for name in _MESSAGES:
            if text := _message(value.get(name), depth - 1):
                return text
    return ""


def _levels(error: object) -> list[dict[str, object]]:
    """Return an error object and those that it holds, the innermost first."""
    levels: list[dict[str, object]] = []
    while isinstance(error, dict) and len(levels) < _DEPTH_MAX:
        levels.insert(0, error)
        inner = error.get("error")
        error = inner if isinstance(inner, dict) else error.get("message")
    return levels


def _words(error: dict[str, object]) -> str:
    return " ".join(word for name in _WORDS if isinstance(word := error.get(name), str))


def _texts(error: object) -> str:
    """Return what tells the kind of an error: its codes, types and message."""
    words = [_words(level) for level in _levels(error)]
    return " ".join((*words, _message(error, _DEPTH_MAX)))[:_READ_CHARS_MAX]


def _status(error: object) -> int:
    """Return the HTTP status that an error object tells; 0 where it tells none."""
    levels = _levels(error)
    for level in levels:
        for name in _STATUSES:
            value = level.get(name)
            if isinstance(value, str) and _DIGITS.fullmatch(value):
                value = int(value)
            if isinstance(value, (int, float)) and value // 100 in (_CLIENT, _SERVER):
                return int(value)
    for words in map(_words, levels):
        for pattern, status in _STATUS_OF_WORDS:
            if pattern.search(words):
                return status
    return 0
