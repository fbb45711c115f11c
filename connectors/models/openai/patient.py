"""A patient reader of chunks, for every form that servers and proxies send; pure.

It takes a side field of a wrong type for absent. Of what carries the answer (`choices`, `delta`,
`content`, `tool_calls`) it reads every known form, and raises `ModelBadResponseError` for any
other: an answer with a piece left out would not be whole.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from turnstream.connectors.models.openai.chunks import (
    Choice,
    Chunk,
    ChunkDelta,
    Function,
    ToolCallPiece,
)
from turnstream.connectors.models.openai.refusals import error_in
from turnstream.schemas.errors import ModelBadResponseError
from turnstream.schemas.limits import DEPTH_MAX, ENVELOPE_LEVELS, depth_of
from turnstream.schemas.text import clean_text, storable_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_JSON = json.JSONDecoder()
_BEGIN = re.compile(r"[^\s\ufeff]")
_INDEX_MAX = 1 << 31
_LIVE = frozenset({b"ping", b"pong", b"keep-alive", b"keepalive", b"heartbeat"})
_TEXT_PARTS = frozenset({"text", "output_text", "input_text"})
_REASONING_PARTS = frozenset({"thinking", "reasoning", "reasoning_text", "summary_text"})


def read_patiently(data: bytes) -> list[Chunk]:
    r"""Return the chunks in an event's data; none where it is empty or a sign of life.

    A chunk's `error` is set for each known shape of an error object. Strings may hold halves of
    characters (`\ud83d`).
    """
    if not data.strip() or data.strip().lower() in _LIVE:
        return []
    if depth_of(data) > DEPTH_MAX + ENVELOPE_LEVELS:
        raise _no_chunk("is nested too deeply")
    return [
        _chunk(item)
        for value in _documents(data.decode("utf-8", "replace"))
        for item in (value if isinstance(value, list) else [value])
        if item is not None and not isinstance(item, (bool, int, float))
    ]


def _documents(text: str) -> Iterator[object]:
    """Give the JSON documents of a text: one, or several where something joined events."""
    at = 0
    while match := _BEGIN.search(text, at):
        try:
            value, at = _JSON.raw_decode(text, match.start())
        except ValueError as error:
            raise _no_chunk("is no JSON") from error
        yield value


def _no_chunk(why: str) -> ModelBadResponseError:
    return ModelBadResponseError(f"the model server sent an event that {why}")


def _unreadable(field: str, value: object) -> ModelBadResponseError:
    return _no_chunk(f"cannot be read: its `{field}` is a {type(value).__name__}")


def _chunk(value: object) -> Chunk:
    if not isinstance(value, dict):
        raise _no_chunk(f"is a {type(value).__name__} and no object")
    error = error_in(value)
    if error is not None:
        return Chunk(error=error)
    choices = value.get("choices") or []
    if not isinstance(choices, list):
        raise _unreadable("choices", choices)
    model = value.get("model")
    read = [_choice(choice) for choice in choices if choice is not None]
    return Chunk(
        choices=read,
        usage=value.get("usage"),
        model=model if isinstance(model, str) else None,
        error=next((choice.error for choice in read if choice.error is not None), None),
    )


def _choice(value: object) -> Choice:
    if not isinstance(value, dict):
        raise _unreadable("choices[]", value)
    delta = value.get("delta")
    completion = value.get("message") if not delta else None
    if not delta:  # a whole completion, or the API of before chats
        delta = completion or {"content": value.get("text")}
    if not isinstance(delta, dict):
        raise _unreadable("delta", delta)
    reason = value.get("finish_reason")
    return Choice(
        index=_index(value.get("index")),
        delta=_delta(delta),
        finish_reason=reason if isinstance(reason, str) else None,
        usage=value.get("usage"),
        error=error_in({"error": value.get("error")}) if value.get("error") else None,
        completes=bool(completion),
    )


def _index(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:  # noqa: PLR2004
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if abs(value) < _INDEX_MAX else None


def _delta(value: dict[str, object]) -> ChunkDelta:
    text, thought = _content(value.get("content"))
    aside = value.get("reasoning_content") or value.get("reasoning")
    calls = value.get("tool_calls") or []
    if isinstance(calls, dict):
        calls = [calls]
    if not isinstance(calls, list):
        raise _unreadable("tool_calls", calls)
    legacy = value.get("function_call")
    refusal = value.get("refusal")
    return ChunkDelta(
        content=text,
        reasoning_content=thought or _aside(aside),
        refusal=refusal if isinstance(refusal, str) else None,
        tool_calls=[_call(call) for call in calls if call is not None],
        function_call=_function(legacy) if legacy else None,
    )


def _content(value: object) -> tuple[str, str]:
    """Return text and reasoning of a content: text, a part, or a list of them."""
    if value is None or isinstance(value, str):
        return value or "", ""
    if isinstance(value, list):
        parts = [_content(part) for part in value]
        return "".join(text for text, _ in parts), "".join(thought for _, thought in parts)
    if not isinstance(value, dict):
        raise _unreadable("content", value)
    kind = value.get("type")
    if not isinstance(kind, str):
        kind = "text"
    if kind in _REASONING_PARTS:
        inner = next((value[k] for k in ("thinking", "reasoning", "text") if value.get(k)), None)
        return "", "".join(_content(inner))
    if kind in _TEXT_PARTS:
        inner = value.get("text", value.get("content"))
        if not isinstance(inner, str):
            raise _unreadable("content", value)
        return inner, ""
    return "", ""  # a reference, an image: nothing that an answer's text can hold


def _aside(value: object) -> str:
    """Return the text of a reasoning field, "" where it has none that can be read."""
    if isinstance(value, dict):
        value = value.get("content") or value.get("text")
    if isinstance(value, list):
        return "".join(_aside(item) for item in value)
    return value if isinstance(value, str) else ""


def _call(value: object) -> ToolCallPiece:
    if not isinstance(value, dict):
        raise _unreadable("tool_calls[]", value)
    function = value.get("function")
    own = _function(value)
    return ToolCallPiece(
        name=own.name,
        arguments=own.arguments,
        id=own.id,
        index=_index(value.get("index")),
        function=_function(function) if function is not None else None,
    )


def _function(value: object) -> Function:
    if not isinstance(value, dict):
        raise _unreadable("function", value)
    name, arguments = value.get("name"), value.get("arguments")
    if name is not None and not isinstance(name, str):
        raise _unreadable("function.name", name)
    if arguments is not None and not isinstance(arguments, (str, dict)):
        arguments = json.dumps(arguments)
    return Function(name=clean_text(name or ""), arguments=arguments, id=_id(value.get("id")))


def _id(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return storable_text(value) if isinstance(value, str) else None
