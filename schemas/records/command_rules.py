"""The rules for commands: edges and workers refuse the same commands. Pure.

The rules judge a command alone. `streams/worker/admission.py` checks what depends on its record
(topic, key, headers), and the edge checks what only a request has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, get_args

import msgspec

from turnstream.schemas.errors import InvalidRequestError, UndecodableError
from turnstream.schemas.ids import check_tenant, check_thread_id, parse_turn_id
from turnstream.schemas.limits import (
    INT_MAX,
    INT_MIN,
    MICROS_MAX,
    check_bytes,
    check_chars,
    check_label,
    compact,
    read_json,
)
from turnstream.schemas.records.commands import Command, OnBusy, ResumeTurn, StartTurn
from turnstream.schemas.text import clean_text, storable_text

JSON_FIELDS = ("input", "config", "metadata", "answers")
"""Fields that are JSON text in a record; all but `input` hold an object."""

LABELS = ("actor", "correlation_id", "traceparent", "graph")
TIMES = ("at", "expires_at")
IDENTITY_KEYS = (
    "user_id",
    "tenant_id",
    "roles",
    "langgraph_auth_user",
    "langgraph_auth_user_id",
    "langgraph_auth_permissions",
)
"""Names in `config["configurable"]` that describe the caller. They cannot be locked, because an
edge with auth writes them itself, in place of the client's."""

_POLICIES = get_args(OnBusy)

C = TypeVar("C", bound=Command)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLimits:
    """What a deployment allows; its workers and edges have to agree.

    `text_chars_max` holds for `text`, and as compact JSON for `input`, `answers` and `config`.
    `metadata_bytes_max`: of `metadata` as compact JSON. `locked`: names in `config.configurable`
    and `config.context` that only the operator sets.
    """

    text_chars_max: int = 200_000
    metadata_bytes_max: int = 65_536
    locked: frozenset[str] = frozenset()


def checked(command: C, limits: CommandLimits) -> C:
    """Return the command with clean texts.

    Raises `InvalidRequestError` for what no worker takes; `TooLargeError` is one.
    """
    check_tenant(command.tenant)
    check_thread_id(command.thread_id)
    if command.turn_id:
        parse_turn_id(command.turn_id)
    for field in LABELS:
        check_label(field, getattr(command, field, ""))
    check_idempotency_key(command.idempotency_key)
    _check_numbers(command)
    if isinstance(command, (StartTurn, ResumeTurn)):
        return msgspec.structs.replace(command, **_clean_fields(command, limits))
    return command


def check_idempotency_key(key: str) -> None:
    """Raise `InvalidRequestError` (`invalid_idempotency_key`) for what cannot be a key."""
    check_label("idempotency_key", key)
    if "\ufffd" in key:
        # what was a lone surrogate, or came broken: two such keys must not become one turn
        raise InvalidRequestError(
            "idempotency_key holds U+FFFD", code="invalid_idempotency_key", field="idempotency_key"
        )


def check_configurable(config: dict[str, object], locked: frozenset[str]) -> None:
    """Raise `InvalidRequestError` for what is no object, or sets a locked name.

    A graph's context is filled from `context`, then from `configurable`: both are checked.
    """
    for part in ("configurable", "context"):
        given = config.get(part)
        if given is None:
            continue
        if not isinstance(given, dict):
            raise InvalidRequestError(
                f"config.{part} must be an object", code="invalid_config", field=f"config.{part}"
            )
        for name in locked.intersection(given).difference(IDENTITY_KEYS):
            raise InvalidRequestError(
                f"config.{part}.{name} is set by the operator: leave it out",
                code="configurable_locked",
                field=f"config.{part}.{name}",
            )


def check_metadata(metadata: object, bytes_max: int) -> None:
    """Raise `TooLargeError` (`metadata_too_large`) for metadata that is more than allowed."""
    check_bytes("metadata", compact(metadata), bytes_max)


def _clean_fields(command: StartTurn | ResumeTurn, limits: CommandLimits) -> dict[str, str]:
    """Return the fields that hold a text or JSON, checked."""
    changes: dict[str, str] = {}
    for field in JSON_FIELDS:
        text = getattr(command, field, "")
        if text:
            changes[field] = _checked_json(field, text, limits)
    if isinstance(command, ResumeTurn):
        if changes.get("answers", "") in ("", "{}"):
            raise InvalidRequestError(
                "answers is a JSON object, interrupt id to answer",
                code="invalid_answers",
                field="answers",
            )
    else:
        check_chars("text", command.text, limits.text_chars_max)
        if bool(command.text) == bool(changes.get("input")):
            raise InvalidRequestError(
                "exactly one of text and input is needed", code="invalid_input", field="text"
            )
        changes["text"] = storable_text(command.text)
        if command.on_busy not in _POLICIES:
            raise InvalidRequestError(
                f"unknown on_busy {command.on_busy[:60]!r}; use {', '.join(_POLICIES)}",
                code="invalid_on_busy",
                field="on_busy",
            )
    return changes


def _checked_json(field: str, text: str, limits: CommandLimits) -> str:
    """Return the JSON text with clean strings, as it is where they are; "" for null."""
    try:
        value = read_json(text, field)
    except UndecodableError as error:
        raise InvalidRequestError(
            f"{field} is {error}", code=f"invalid_{field}", field=field
        ) from error
    if value is None:
        return ""
    if field != "input" and not isinstance(value, dict):
        raise InvalidRequestError(
            f"{field} is not a JSON object", code=f"invalid_{field}", field=field
        )
    if not value and field == "answers":
        return "{}"
    if field == "config" and isinstance(value, dict):
        check_configurable(value, limits.locked)
    limit = limits.metadata_bytes_max if field == "metadata" else limits.text_chars_max
    # a text that is short enough as it is need not be written anew to be measured
    small = 4 * len(text) <= limit if field == "metadata" else len(text) <= limit
    clean = clean_text(text) if "\\u" not in text else compact(value)
    if not small:
        measured = compact(value)
        if field == "metadata":
            check_bytes(field, measured, limit)
        else:
            check_chars(field, measured, limit)
    return clean


def _check_numbers(command: Command) -> None:
    for field in TIMES:
        if not 0 <= getattr(command, field, 0) <= MICROS_MAX:
            raise InvalidRequestError(
                f"{field} is no time: microseconds since 1970, up to the year 9999",
                code=f"invalid_{field}",
                field=field,
            )
    if not INT_MIN <= getattr(command, "priority", 0) <= INT_MAX:
        raise InvalidRequestError(
            "priority is an integer of 64 bits", code="invalid_priority", field="priority"
        )
