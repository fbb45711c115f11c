"""What a dead letter's bytes are, whether they would be taken now, and a letter as JSON. Pure."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from turnstream.connectors.avro import SINGLE_OBJECT
from turnstream.schemas.errors import InvalidRequestError, UndecodableError
from turnstream.schemas.records.command_json import command_of_json, is_json
from turnstream.schemas.unexpected import note
from turnstream.streams.worker.admission import admission_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from turnstream.connectors.postgres.stores.letters import Decision
    from turnstream.schemas.records.results import DeadLetter
    from turnstream.streams.letters.scan import Letter
    from turnstream.streams.worker.admission import Rules

BATCH_CODES = frozenset(
    {"corrupt_batch", "bad_crc", "unknown_codec", "unsupported_format", "batch_too_large"}
)
"""Codes of letters whose value is a batch as it lies in the log, or one damaged record of it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An attempt to decode. `form`: how the bytes are framed; `type`, `fields`: the record in them.

    `code` and `message`: why an intake would refuse it now; empty where it would be taken.
    """

    form: str
    type: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    message: str = ""


@dataclass(slots=True)
class _Again:
    """The refused record as an intake would meet it once more."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def read_letter(
    letter: DeadLetter, key: bytes, value: bytes, rules: Rules, tenant: str | None
) -> Reading:
    """Judge these bytes in the letter's place, as an intake of its topic would now."""
    name, fields = "", {}
    record = _decoded(value, rules)
    if record is not None:
        name = getattr(record, "type", "") or type(record).__name__
        fields = {
            field_: _plain(item)
            for field_, item in msgspec.structs.asdict(record).items()
            if item not in ("", 0, None, b"")
        }
    code = message = ""
    again = _Again(letter.topic, letter.partition, letter.offset, key or None, value or None)
    try:
        admission_of(again, tenant, letter.topic, rules)
    except (UndecodableError, InvalidRequestError) as error:
        code, message = error.code, str(error)
    except Exception as error:  # noqa: BLE001  as the intake, which makes a letter of it
        error_id = note("letter_reading", error, topic=letter.topic, offset=letter.offset)
        code, message = "unprocessable", f"{type(error).__name__} (error {error_id})"
    form = form_of(value)
    if letter.code in BATCH_CODES and value == letter.value:
        form = "Kafka's bytes of a batch, or of one record"
    return Reading(form=form, type=name, fields=fields, code=code, message=message)


def _decoded(value: bytes, rules: Rules) -> msgspec.Struct | None:
    """Return the record, None for one that cannot be read; its admission tells why."""
    try:
        return command_of_json(value) if is_json(value) else rules.wire.decode(value)
    except Exception:  # noqa: BLE001  the bytes are foreign
        return None


def form_of(value: bytes) -> str:
    """Return how the bytes are framed, by their beginning."""
    if not value:
        return "nothing"
    if is_json(value):
        return "JSON"
    if value[:2] == SINGLE_OBJECT and len(value) >= 10:  # noqa: PLR2004  2 + 8 bytes of framing
        return f"Avro single-object encoding, fingerprint {value[2:10].hex()}"
    if value[:1] == b"\0" and len(value) >= 5:  # noqa: PLR2004  1 + 4 bytes of framing
        return f"Avro of a schema registry, schema {int.from_bytes(value[1:5], 'big')}"
    try:
        value.decode()
    except UnicodeDecodeError:
        return f"unknown bytes, the first is {value[0]:#04x}"
    return "text"


def letter_json(letter: Letter) -> dict[str, Any]:
    """Return a letter without its bytes."""
    record = letter.record
    return {
        "letter": str(letter.place),
        "state": letter.state,
        "code": record.code,
        "message": record.message,
        "tenant": record.tenant,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "at": (_EPOCH + timedelta(microseconds=record.at)).isoformat(),
        "size": len(record.value),
        "letter_id": record.letter_id,
        "requeues": record.requeues,
        "decision": None if letter.decision is None else decision_json(letter.decision),
    }


def shown_json(letter: Letter, reading: Reading, history: Sequence[Decision]) -> dict[str, Any]:
    """Return a letter with its bytes (as text, or in base64), what they are, and its history."""
    return {
        **letter_json(letter),
        **_bytes("key", letter.record.key),
        **_bytes("value", letter.record.value),
        "reading": {
            "form": reading.form,
            "type": reading.type,
            "fields": reading.fields,
            "code": reading.code,
            "message": reading.message,
        },
        "history": [decision_json(decision) for decision in history],
    }


def decision_json(decision: Decision) -> dict[str, Any]:
    """Return who decided what and when, and where a requeued record lies."""
    at, sent = decision.decided_at, decision.sent_at
    return {
        "requeues": decision.key.requeues,
        "what": decision.what,
        "actor": decision.actor,
        "note": decision.note,
        "at": None if at is None else at.isoformat(),
        "letter": decision.place,
        "refused": decision.code,
        "edited": decision.edited,
        "value_sha256": decision.value_sha.hex() if decision.value_sha else "",
        "sent_at": None if sent is None else sent.isoformat(),
        "sent_partition": decision.sent_part,
        "sent_offset": decision.sent_off,
    }


def _bytes(name: str, data: bytes) -> dict[str, str]:
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return msgspec.to_builtins(value)
