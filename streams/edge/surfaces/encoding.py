"""Values of a graph's state as JSON text."""

from __future__ import annotations

import msgspec

from turnstream.schemas.text import clean_text


def encode(value: object) -> bytes:
    """Return any state value as JSON text that every client can parse.

    Messages and other pydantic objects become their fields. A value that JSON has no form for
    becomes its text.
    """
    try:
        return _ENCODER.encode(value)
    except (UnicodeEncodeError, TypeError, OverflowError, ValueError):
        return _ENCODER.encode(_plain(value))


def _foreign(value: object) -> object:
    """Return a value that msgspec can encode, for an object that it cannot."""
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        dumped: object = dump()
        return dumped
    if isinstance(value, BaseException):
        return {"error": type(value).__name__, "message": str(value)}
    return str(value)


_ENCODER = msgspec.json.Encoder(enc_hook=_foreign)


def _plain(value: object) -> object:
    """Return a copy with string keys, clean text and numbers of 64 bits."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return float(value) if abs(value) < 1 << 1000 else str(value)
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    return _plain(msgspec.to_builtins(value, enc_hook=_foreign, str_keys=True))
