"""From a record on an input topic to an admission, or to the reason for its refusal. Pure.

A record is refused with one of the codes of `UndecodableError` and `InvalidRequestError`, which
become the dead letter's `code`; docs/reference.md lists them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import msgspec

from turnstream.connectors.kafka.read.scan import partition_of
from turnstream.connectors.postgres.ledger.rows import Admission
from turnstream.schemas.errors import InvalidRequestError, UndecodableError
from turnstream.schemas.ids import (
    parse_turn_id,
    thread_key,
    turn_id_of_key,
    turn_id_of_record,
)
from turnstream.schemas.limits import read_json
from turnstream.schemas.records.command_json import command_of_json, is_json
from turnstream.schemas.records.command_rules import CommandLimits, checked
from turnstream.schemas.records.commands import CancelTurn, Command, ResumeTurn, StartTurn
from turnstream.schemas.records.events import UnknownEvent
from turnstream.streams.worker.entry.body import body_of

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from turnstream.connectors.avro import Codec

LETTER_HEADER, REQUEUES_HEADER = "letter", "requeues"
"""Headers of a requeued record: the id of its letter, and how often it was requeued."""

REQUEUES_DIGITS_MAX = 6

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Record(Protocol):
    """What a Kafka client gives for one record."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What an admission depends on besides the record.

    `wire` decodes what comes in; `store` encodes what the ledger keeps, which must be readable
    without a registry. `partitions`: of `turn-events`.
    """

    wire: Codec
    store: Codec
    graphs: Container[str]
    partitions: int
    limits: CommandLimits


def admission_of(record: Record, tenant: str | None, topic_id: str, rules: Rules) -> Admission:
    """Return what the record asks for; as `command_in` and `admission_for`."""
    return admission_for(command_in(record, tenant, topic_id, rules), record, rules)


def command_in(record: Record, tenant: str | None, topic_id: str, rules: Rules) -> Command:
    """Return the record's command, checked, with its tenant and its turn's id.

    `tenant` is the topic's, None on the edges' own, where the body names it. Raises
    `UndecodableError` or `InvalidRequestError`.
    """
    command = _of_tenant(_command(record.value, rules.wire), tenant)
    command = checked(command, rules.limits)
    _check_key(record.key, thread_key(command.tenant, command.thread_id), command.thread_id)
    turn_id = _turn_id(command, topic_id, record)
    return msgspec.structs.replace(command, turn_id=str(turn_id))


def admission_for(command: Command, record: Record, rules: Rules) -> Admission:
    """Return the admission of a command that `command_in` found in the record.

    Raises `UndecodableError` (`not_a_command`).
    """
    key = thread_key(command.tenant, command.thread_id)
    turn_id = UUID(command.turn_id)
    partition = partition_of(key.encode(), rules.partitions)
    if isinstance(command, CancelTurn):
        return Admission(
            kind="cancel",
            tenant=command.tenant,
            thread_id=command.thread_id,
            thread_key=key,
            turn_id=turn_id,
            partition=partition,
            src_off=record.offset,
            on_busy="rollback" if command.rollback else "",
            actor=command.actor,
        )
    if not isinstance(command, (StartTurn, ResumeTurn)):
        raise UndecodableError(f"{type(command).__name__} is not for workers", code="not_a_command")
    body, digest = body_of(command, rules.store)
    return Admission(
        kind="start" if isinstance(command, StartTurn) else "resume",
        tenant=command.tenant,
        thread_id=command.thread_id,
        thread_key=key,
        turn_id=turn_id,
        partition=partition,
        src_off=record.offset,
        body=body,
        body_sha=digest,
        graph=command.graph,
        known=command.graph in rules.graphs,
        on_busy=command.on_busy if isinstance(command, StartTurn) else "enqueue",
        expires_at=_time(command.expires_at),
        answers=_answered(command) if isinstance(command, ResumeTurn) else (),
        actor=command.actor,
    )


def _command(value: bytes | None, wire: Codec) -> Command:
    if value is None:
        raise UndecodableError("the record has no value", code="empty")
    if is_json(value):
        return command_of_json(value)
    decoded = wire.decode(value)
    if isinstance(decoded, UnknownEvent):
        raise UndecodableError(
            f"unknown record type {decoded.type!r}; this version does not have its schema",
            code="unknown_schema",
        )
    if not isinstance(decoded, Command):
        raise UndecodableError(f"{type(decoded).__name__} is no command", code="not_a_command")
    return decoded


def _of_tenant(command: Command, tenant: str | None) -> Command:
    """Return the command in the topic's tenant; one that names another is refused."""
    if tenant is None or command.tenant == tenant:
        return command
    if command.tenant:
        raise InvalidRequestError(
            f"tenant {command.tenant[:60]!r} has no place on the topic of {tenant!r}",
            code="tenant_mismatch",
            field="tenant",
        )
    return msgspec.structs.replace(command, tenant=tenant)


def _check_key(key: bytes | None, expected: str, thread_id: str) -> None:
    """Refuse a key of another thread. A record without a key is taken; it gives up its order."""
    if key and key not in (expected.encode(), thread_id.encode()):
        raise InvalidRequestError(
            f"the record's key {key[:60]!r} is not its thread's, {expected[:60]!r}",
            code="key_mismatch",
            field="thread_id",
        )


def letter_of(record: Record, topic_id: str) -> tuple[UUID, int]:
    """Return the id of a record as a dead letter, and how often the record was requeued.

    The id is the turn id that a record without one has. A requeued record carries its id in its
    headers, so that a record that a crash requeues twice is one turn and one letter. Any producer
    may write headers of these names. A malformed header counts as none; of several the last counts.
    """
    given = dict(record.headers)
    letter = _letter_id(given.get(LETTER_HEADER))
    requeues = given.get(REQUEUES_HEADER) or b""
    if letter is None or not (requeues.isdigit() and len(requeues) <= REQUEUES_DIGITS_MAX):
        return turn_id_of_record(topic_id, record.partition, record.offset), 0
    return letter, int(requeues)


def _letter_id(text: bytes | None) -> UUID | None:
    try:
        return UUID((text or b"").decode())
    except ValueError:
        return None


def _turn_id(command: Command, topic_id: str, record: Record) -> UUID:
    if command.turn_id:
        return parse_turn_id(command.turn_id)
    if isinstance(command, CancelTurn):
        raise InvalidRequestError("a cancel names its turn", code="missing_field", field="turn_id")
    if command.idempotency_key:
        return turn_id_of_key(command.tenant, command.idempotency_key)
    return letter_of(record, topic_id)[0]


def _answered(command: ResumeTurn) -> tuple[str, ...]:
    return tuple(read_json(command.answers, "answers"))


def _time(micros: int) -> datetime | None:
    return _EPOCH + timedelta(microseconds=micros) if micros else None
