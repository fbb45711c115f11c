"""Questions that graphs ask with `interrupt()`: what is said of them, and whether an answer fits.

A graph gives the JSON schema of the answer with `interrupt(value, response_schema=…)`, and the time
to answer as `expires_in_s` (seconds, a number above 0) inside a `value` that is an object.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import msgspec

from turnstream.graph.values import to_json
from turnstream.schemas.errors import GraphError
from turnstream.schemas.records.events import InputRequested
from turnstream.schemas.text import clean_json, clean_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.graph.ports.commits import Asked
    from turnstream.graph.run.said import Said
    from turnstream.schemas.records.events import Interrupt

EXPIRES_IN_S = "expires_in_s"
EXPIRES_IN_S_MAX = 10 * 365 * 86_400
MESSAGE_CHARS_MAX = 500
"""Of what is wrong with an answer: the value that is wrong is quoted in it."""


def asked_fields(value: object, response_schema: object) -> dict[str, Any]:
    """Return the fields that `InputRequested` and `Interrupt` have in common.

    Raises `GraphError` for a schema that no answer could be checked against.
    """
    if response_schema is not None:
        _validator(response_schema)
    expires_at = 0
    seconds = value.get(EXPIRES_IN_S) if isinstance(value, dict) else None
    if isinstance(seconds, int | float) and 0 < seconds <= EXPIRES_IN_S_MAX:
        expires_at = time.time_ns() // 1000 + int(seconds * 1_000_000)
    return {
        "payload": to_json(value),
        "response_schema": "" if response_schema is None else to_json(response_schema),
        "expires_at": expires_at,
    }


def said_questions(said: Said, asked: Mapping[str, Asked]) -> list[Interrupt]:
    """Return the questions as the turn's outcome has them, and emit those not emitted yet.

    The translator of brought graphs emits them by itself.
    """
    for interrupt_id, question in asked.items():
        if interrupt_id not in said.questions:
            said.emit(
                InputRequested,
                path=question.path,
                interrupt_id=interrupt_id,
                ns=question.namespace,
                **asked_fields(question.interrupt.value, question.interrupt.response_schema),
            )
    return [said.questions[interrupt_id] for interrupt_id in asked]


def wrong_answer(answers: Mapping[str, object], schemas: Mapping[str, str]) -> str:
    """Return what is wrong with the first answer that does not fit its schema, "" if all do.

    It begins with the field, `answers.<interrupt id>.<path>`, and a colon. `schemas` is JSON text
    by interrupt id.
    """
    for interrupt_id, answer in answers.items():
        schema = schemas.get(interrupt_id)
        if not schema:
            continue
        try:
            validator = _validator(msgspec.json.decode(schema))
        except GraphError as error:  # another version stored it
            return f"answers.{interrupt_id}: {error}"
        try:
            errors = list(validator.iter_errors(clean_json(answer)))
        except (ValueError, TypeError, OverflowError) as error:  # NaN, say: JSON has no such thing
            return f"answers.{interrupt_id}: {error}"
        if errors:
            return _named(interrupt_id, errors[0])
    return ""


def _named(interrupt_id: str, wrong: jsonschema_rs.ValidationError) -> str:
    """Return what is wrong behind the field that it is wrong with, a missing one included."""
    path = ["answers", interrupt_id, *wrong.instance_path]
    missing = getattr(wrong.kind, "property", None)
    if isinstance(missing, str) and "required" in wrong.message:
        path.append(missing)
    field = ".".join(map(str, path)).replace(":", "")
    return clean_text(f"{field}: {wrong.message}")[:MESSAGE_CHARS_MAX]


def _validator(schema: object) -> jsonschema_rs.Validator:
    try:
        if not isinstance(schema, dict):
            raise TypeError(f"it is a {type(schema).__name__}, not an object")  # noqa: TRY301
        # nothing is fetched for a `$ref`
        return jsonschema_rs.validator_for(schema, offline=True)
    except (ValueError, TypeError) as error:
        raise GraphError(
            f"a response_schema is no JSON schema: {str(error).splitlines()[0]}",
            code="response_schema",
        ) from error
