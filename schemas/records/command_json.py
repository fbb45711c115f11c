"""Commands written as one JSON object, as any Kafka client can send them. Pure.

The fields are those of the Structs in `commands.py`; `type` names the command (default
`StartTurn`); `input`, `config`, `metadata` and `answers` may be JSON values instead of JSON text.
White space and a byte order mark may come before the object, a field with a default may be null,
and an integer may be written as 5.0, as serialisers of some languages do.
"""

from __future__ import annotations

import msgspec

from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.limits import compact, read_json
from turnstream.schemas.records.command_rules import JSON_FIELDS
from turnstream.schemas.records.commands import COMMANDS, Command

_BY_NAME = {command.__name__: command for command in COMMANDS}
_FIELDS = {command: frozenset(command.__struct_fields__) for command in COMMANDS}
_REQUIRED = {
    command: frozenset(one.name for one in msgspec.structs.fields(command) if one.required)
    for command in COMMANDS
}
_ALL_FIELDS = frozenset[str]().union(*_FIELDS.values())
_INTEGERS = ("at", "expires_at", "priority")
_WHITE_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


def is_json(data: bytes) -> bool:
    """Tell by its beginning whether a record is meant as JSON: Avro never begins like this."""
    begin = data.lstrip(_WHITE_SPACE).removeprefix(_BOM).lstrip(_WHITE_SPACE)[:1]
    return begin in (b"{", b"[")


def command_of_json(data: bytes) -> Command:
    """Return the command.

    Raises `UndecodableError` with one of the codes `not_json`, `not_an_object`, `unknown_type`,
    `unknown_field`, `missing_field`, `wrong_type`, and `InvalidRequestError` as `read_json` does.
    """
    fields = read_json(data.lstrip(_WHITE_SPACE), envelope=True)
    if not isinstance(fields, dict):
        raise UndecodableError("the JSON is not an object", code="not_an_object")
    return _command_of(fields)


def _command_of(given: dict[str, object]) -> Command:
    name = given.pop("type", None)
    name = "StartTurn" if name is None else name
    command = _BY_NAME.get(name) if isinstance(name, str) else None
    if command is None:
        raise UndecodableError(
            f"unknown type {str(name)[:60]!r}; use {', '.join(_BY_NAME)}", code="unknown_type"
        )
    required = _REQUIRED[command]
    fields = {
        field: _whole(value) if field in _INTEGERS else value
        for field, value in given.items()
        if value is not None or field in required or field not in _ALL_FIELDS
    }
    unknown = sorted(fields.keys() - _FIELDS[command])
    if unknown:
        raise UndecodableError(
            f"{command.__name__} has no field {', '.join(repr(f[:60]) for f in unknown[:5])}",
            code="unknown_field",
            field=unknown[0][:60],
        )
    for field in JSON_FIELDS:
        if field in fields and not isinstance(fields[field], str):
            fields[field] = compact(fields[field])
    try:
        return msgspec.convert(fields, command)
    except msgspec.ValidationError as error:
        code = "missing_field" if "missing required field" in str(error) else "wrong_type"
        raise UndecodableError(f"{command.__name__}: {error}", code=code) from error


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
