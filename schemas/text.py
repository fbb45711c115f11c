"""Text that every store, wire and screen takes. Pure.

UTF-8 has no lone surrogates and Postgres stores no NUL. Each becomes U+FFFD, so that a reader sees
that a character was there.
"""

from __future__ import annotations

import hashlib
from typing import Any

_CONTROLS = dict.fromkeys((*range(32), 127, *range(128, 160)), "\ufffd")
_CONTROLS_IN_LINES = {code: sign for code, sign in _CONTROLS.items() if code not in {9, 10}}


def clean_text(text: str) -> str:
    """Return the text with each lone surrogate replaced by U+FFFD, so that it is UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def storable_text(text: str) -> str:
    """Return the text with each lone surrogate and NUL replaced by U+FFFD; the same if it is so."""
    return clean_text(text).replace("\x00", "\ufffd")


def clean_json(value: Any) -> Any:
    """Return a JSON value with `storable_text` for its strings, keys included.

    Recurses: for values that `limits.check_depth` has passed.
    """
    if isinstance(value, str):
        return value if value.isascii() and "\x00" not in value else storable_text(value)
    if isinstance(value, dict):
        return {clean_json(key): clean_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_json(item) for item in value]
    return value


def visible_text(text: str, *, lines: bool = False) -> str:
    """Return text that moves no cursor and sets no title: control characters become U+FFFD.

    `lines`: tabs and line feeds stay.
    """
    return text.translate(_CONTROLS_IN_LINES if lines else _CONTROLS)


def text_sha256(text: str) -> str:
    """Return the SHA-256 (hex) of a text's UTF-8; lone surrogates count as U+FFFD."""
    return hashlib.sha256(clean_text(text).encode()).hexdigest()
