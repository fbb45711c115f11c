"""JSON of what graphs hold, and text that every store takes. Pure."""

from __future__ import annotations

import msgspec
from langchain_core.messages import BaseMessage
from pydantic import BaseModel

from turnstream.schemas.text import clean_text

DEPTH_MAX = 50
"""Deeper than any sensible payload, shallower than the stack."""
MESSAGE_CHARS_MIN = 100
"""Of a message's JSON without its content."""


def to_json(value: object) -> str:
    """Return a value of a node, tool or interrupt as JSON text; `str` of what has no JSON form."""
    try:
        return msgspec.json.encode(value, enc_hook=_foreign).decode()
    except (TypeError, ValueError, RecursionError):
        return msgspec.json.encode(_plain(value, depth=0)).decode()


def _foreign(value: object) -> object:
    if isinstance(value, BaseMessage):
        return value.model_dump()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)


def _plain(value: object, depth: int) -> object:
    """Convert what the encoder refused: odd keys, lone surrogates, deep or circular data."""
    if depth > DEPTH_MAX:
        return "…"
    if isinstance(value, BaseMessage):
        value = _foreign(value)
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(str(key)): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth + 1) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return clean_text(str(value))


def is_small(value: object, chars_max: int) -> bool:
    """Return whether JSON of the value may be within a bound; a quick estimate without the JSON."""
    return _room(value, chars_max, DEPTH_MAX) >= 0


def _room(value: object, left: int, depth: int) -> int:
    """Return what is left of a number of characters after the value; negative: nothing."""
    if isinstance(value, (str, bytes)):
        return left - len(value)
    if isinstance(value, BaseMessage):
        return _room(value.content, left - MESSAGE_CHARS_MIN, depth - 1)
    if depth < 0 or not isinstance(value, (dict, list, tuple, set, frozenset)):
        return left - 1
    left -= 1 + len(value)
    for item in value.values() if isinstance(value, dict) else value:
        if left < 0:
            break
        left = _room(item, left, depth - 1)
    return left


def text_of(content: object) -> str:
    """Return the text of a message's content: a string, or a list of blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return str(content)
    parts = []
    for block in content:
        if isinstance(block, str):
            parts.append(block)
        elif isinstance(block, dict) and isinstance(block.get("text"), str):
            parts.append(block["text"])
    return "".join(parts)
