"""Commands written as one JSON object, as any Kafka client can send them. Pure.

The fields are those of the Structs in `commands.py`; `type` names the command (default
`StartTurn`); `input`, `config`, `metadata` and `answers` may be JSON values instead of JSON text.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from turnstream.schemas.commands import COMMANDS, Command
from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.transcript import clean_text

JSON_FIELDS = ("input", "config", "metadata", "answers")
_BY_NAME = {command.__name__: command for command in COMMANDS}
_FIELDS = {command: frozenset(command.__struct_fields__) for command in COMMANDS}


def command_of_json(data: bytes) -> Command:
    """Return the command.

    Raises `UndecodableError` with one of the codes `not_json`, `not_an_object`, `unknown_type`,
    `unknown_field`, `missing_field`, `wrong_type`.
    """
    fields = _object(data)
    name = fields.pop("type", "StartTurn")
    command = _BY_NAME.get(name) if isinstance(name, str) else None
    if command is None:
        raise UndecodableError(
            f"type {str(name)[:60]!r} is none of {', '.join(_BY_NAME)}", code="unknown_type"
        )
    unknown = sorted(fields.keys() - _FIELDS[command])
    if unknown:
        raise UndecodableError(
            f"{command.__name__} has no field {', '.join(repr(f[:60]) for f in unknown[:5])}",
            code="unknown_field",
            field=unknown[0][:60],
        )
    for field in JSON_FIELDS:
        if field in fields and not isinstance(fields[field], str):
            fields[field] = msgspec.json.encode(fields[field]).decode()
    try:
        return msgspec.convert(fields, command)
    except msgspec.ValidationError as error:
        code = "missing_field" if "missing required field" in str(error) else "wrong_type"
        raise UndecodableError(f"{command.__name__}: {error}", code=code) from error


def _object(data: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(data)
    except RecursionError as error:
        raise UndecodableError("the JSON is nested too deeply", code="not_json") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        decoded = _with_lone_surrogates(data, error)
    if not isinstance(decoded, dict):
        raise UndecodableError("the JSON is not an object", code="not_an_object")
    return decoded


def _with_lone_surrogates(data: bytes, error: Exception) -> Any:
    """Read JSON with escapes of lone surrogates, which only the standard library takes."""
    try:
        if b"\\u" in data:
            return clean_json(json.loads(data))
    except (ValueError, RecursionError):
        pass
    raise UndecodableError(f"not JSON: {error}", code="not_json") from error


def clean_json(value: Any) -> Any:
    """Return the value with lone surrogates and NUL in its strings replaced by U+FFFD.

    Postgres stores neither; what a model reads must be what the record said, visibly.
    """
    if isinstance(value, str):
        return clean_text(value).replace("\x00", "\ufffd")
    if isinstance(value, list):
        return [clean_json(item) for item in value]
    if isinstance(value, dict):
        return {clean_json(key): clean_json(item) for key, item in value.items()}
    return value
