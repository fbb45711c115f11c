"""Limits of foreign JSON, numbers and texts, the same on every way in. Pure.

Workers and edges read JSON of clients and records through `read_json`, or call `check_depth` before
another parser sees it, because parsers recurse, and so does code that walks their result. Nothing
in this module recurses.
"""

from __future__ import annotations

import json
import re
from array import array
from itertools import accumulate
from typing import Any

import msgspec

from turnstream.schemas.errors import InvalidRequestError, TooLargeError, UndecodableError
from turnstream.schemas.text import clean_json, storable_text

DEPTH_MAX = 64
"""Arrays and objects inside one another, in each JSON value of a command or request."""

ENVELOPE_LEVELS = 8
"""Levels that a request, a frame or a record has around such a value."""

INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
"""Integers of Avro and Postgres (`bigint`)."""

MICROS_MAX = 253_402_300_799_999_999
"""The end of year 9999 in microseconds since 1970: no calendar here goes further."""

LABEL_CHARS_MAX = 500
"""Of actor, correlation id, idempotency key, graph: they go into every result or index."""

# possessive: no text makes the pattern go back
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(code for code in range(256) if code not in b"[{]}")
# shorter ones fit into 64 bits
_LONG_NUMBER = re.compile(r"[0-9]{19}")
_SURROGATE = re.compile(r"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
_BOM = "\ufeff"


def depth_of(text: bytes | str) -> int:
    """Return how many levels JSON has, 0 where it cannot have more than `DEPTH_MAX`.

    Takes about 5 ms a megabyte of usual JSON, 60 ms a megabyte at worst. For text that is not JSON
    it returns the depth that a parser reaches before it fails, or more.
    """
    if isinstance(text, str):
        if text.count("[") + text.count("{") <= DEPTH_MAX:
            return 0
        text = text.encode("utf-8", "surrogatepass")
    elif text.count(b"[") + text.count(b"{") <= DEPTH_MAX:
        return 0
    brackets = _STRING.sub(b"", text).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(array("b", brackets)), default=0)


def check_depth(text: bytes | str, field: str = "", *, envelope: bool = False) -> None:
    """Raise `InvalidRequestError` (`too_deep`) for JSON of more than `DEPTH_MAX` levels.

    With `envelope` for JSON that holds such values: it may have `ENVELOPE_LEVELS` more.
    """
    if depth_of(text) > DEPTH_MAX + (ENVELOPE_LEVELS if envelope else 0):
        raise InvalidRequestError(
            f"{field or 'the JSON'} is nested more than {DEPTH_MAX} levels deep: flatten it",
            code="too_deep",
            field=field,
        )


def read_json(data: bytes | str, field: str = "", *, envelope: bool = False) -> Any:
    """Return the value of UTF-8 JSON text, which may begin with a byte order mark.

    Lone surrogates and NUL in its strings become U+FFFD. Raises `InvalidRequestError` (`too_deep`,
    `number_out_of_range`) and `UndecodableError` (`not_json`). NUL and the numbers of an `envelope`
    are left to the rules for its fields.
    """
    try:
        text = (data if isinstance(data, str) else data.decode()).removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise UndecodableError("not JSON: not UTF-8", code="not_json") from error
    check_depth(text, field, envelope=envelope)
    odd = _SURROGATE.search(text) is not None
    try:
        value = _loads(text) if odd else msgspec.json.decode(text)
    except (ValueError, msgspec.DecodeError) as error:
        raise UndecodableError(f"not JSON: {error}", code="not_json") from error
    if not envelope and _LONG_NUMBER.search(text):
        _check_numbers(value, field)
    return clean_json(value) if odd or (not envelope and "\\u" in text) else value


def compact(value: object) -> str:
    """Return a JSON value as text without white space and without needless escapes.

    Limits in characters or bytes are compared with its length.
    """
    return msgspec.json.encode(value).decode()


def check_chars(field: str, text: str, chars_max: int) -> None:
    """Raise `TooLargeError` (413) for a text, or compact JSON, of too many characters."""
    if len(text) > chars_max:
        name = "text" if field == "input" else field
        raise TooLargeError(
            f"{field} has {len(text)} characters, {chars_max} are allowed",
            code=f"{name}_too_long",
            field=field,
        )


def check_bytes(field: str, text: str, bytes_max: int) -> None:
    """Raise `TooLargeError` (413) for compact JSON of too many bytes."""
    size = len(text) if text.isascii() else len(text.encode())
    if size > bytes_max:
        raise TooLargeError(
            f"{field} has {size} bytes as JSON, {bytes_max} are allowed",
            code=f"{field}_too_large",
            field=field,
        )


def check_label(field: str, text: str) -> None:
    """Raise `InvalidRequestError` for what cannot be an id, a name or a key."""
    if len(text) > LABEL_CHARS_MAX or storable_text(text) != text:
        raise InvalidRequestError(
            f"{field}: at most {LABEL_CHARS_MAX} characters, no NUL and no lone surrogates",
            code=f"invalid_{field}",
            field=field,
        )


def check_value(value: object, *, strict: bool = False) -> None:
    """Raise ValueError for a JSON value that some store or client cannot hold.

    At most `DEPTH_MAX` levels, integers of 64 bits, no NaN or infinity. `strict`: strings without
    NUL and lone surrogates too.
    """
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            if strict:
                check_text(item)
        elif isinstance(item, (dict, list)):
            if depth >= DEPTH_MAX:
                raise ValueError(f"is nested more than {DEPTH_MAX} levels deep")
            items = item
            if isinstance(item, dict):
                items = list(item.values())
                for key in item if strict else ():
                    check_text(key)
            waiting.extend((one, depth + 1) for one in items)
        elif isinstance(item, float):
            if item - item != 0:
                raise ValueError("has a number that JSON does not have")
        elif isinstance(item, int) and not INT_MIN <= item <= INT_MAX:
            raise ValueError("has an integer of more than 64 bits")


def check_text(text: str) -> str:
    """Return the text; raises ValueError for NUL and lone surrogates."""
    if "\x00" in text:
        raise ValueError("contains NUL (U+0000): remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("contains a lone surrogate: send valid Unicode") from None
    return text


def _check_numbers(value: object, field: str) -> None:
    try:
        check_value(value)
    except ValueError as error:
        raise InvalidRequestError(
            f"{field or 'the JSON'} {error}", code="number_out_of_range", field=field
        ) from error


def _loads(text: str) -> Any:
    """Read JSON with escapes of lone surrogates, which only the standard library takes."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{text[:60]} is no number of JSON")
    return number
