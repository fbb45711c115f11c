"""Publishes commands to `turns`, and waits until the edge's own tail shows that a turn begins.

Every surface of the edge goes through here. A command is accepted once Kafka has acknowledged it;
from then on it cannot be lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from turnstream.schemas.errors import ConflictError, InvalidRequestError, RecordTooLargeError
from turnstream.schemas.ids import (
    new_turn_id,
    parse_turn_id,
    thread_key,
    turn_id_of_key,
)
from turnstream.schemas.limits import check_label, compact
from turnstream.schemas.records.command_rules import CommandLimits, check_idempotency_key, checked
from turnstream.schemas.records.commands import CancelTurn, Command, OnBusy, ResumeTurn, StartTurn
from turnstream.schemas.records.events import Event, TurnEnded, TurnRejected
from turnstream.schemas.topics import COMMAND_BYTES_MAX
from turnstream.streams.edge.ask.identity import config_for
from turnstream.streams.edge.follow.cursor import first_seq

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.streams.edge.follow.feed import Feed
    from turnstream.streams.edge.server.auth import Principal

RECENT_MAX = 10_000
EXPIRES_IN_S_MAX = 10 * 365 * 86_400
# Kafka's own framing of a record beside its key and value
RECORD_OVERHEAD_BYTES = 1024


class Gate(Protocol):
    """Decides whether commands are taken."""

    def check(self, *, starts: bool) -> None:
        """Raise an `UnavailableError` where they are not."""
        ...

    def started(self) -> None:
        """Note that a command is published that starts a turn."""
        ...


class CommandLog(Protocol):
    """Carries commands: the `turns` topic."""

    def encode(self, command: Command) -> bytes:
        """Return the command as a record's value; raises `UndecodableError` (`invalid_text`)."""
        ...

    async def append(self, key: str, kind: type[Command], value: bytes) -> None:
        """Return once the log has an encoded command; raises `KafkaUnavailableError`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a client asked for, whichever surface it came by.

    `config` and `metadata` are JSON objects, None where nothing was given. `expires_at`: 0, or what
    `check_expires_at` has passed.
    """

    thread_id: str
    graph: str = "agent"
    config: Mapping[str, object] | None = None
    metadata: Mapping[str, object] | None = None
    turn_id: str = ""
    idempotency_key: str = ""
    correlation_id: str = ""
    expires_at: int = 0
    traceparent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of a command.

    `state`: `started` (the tail shows the turn), `ended` (it ended unclaimed, or at once; `record`
    says how), `pending` (not seen in time: it waits behind other turns, or no worker is up).
    `applied_through`: the `seq` before the turn's first event; a stream opened `since` it misses
    none. None while pending.
    """

    turn_id: str
    state: Literal["started", "ended", "pending"]
    record: Event | None = None
    applied_through: int | None = None


@dataclass(slots=True)
class Submit:
    """Start, resume and cancel turns in the name of a principal.

    `start_of` and `resume_of` make a command by the workers' rules, or raise `InvalidRequestError`
    (422, 413). `send` and `cancel` raise `RecordTooLargeError` (413), `ConflictError` (409, the
    turn was rejected; `code` is the reason) or `UnavailableError` (503). Nothing was published
    then, unless Kafka did not answer.
    """

    log: CommandLog
    feed: Feed
    gate: Gate
    start_wait_s: float = 2.0
    limits: CommandLimits = field(default_factory=CommandLimits)
    _recent: OrderedDict[str, None] | None = None

    def start_of(
        self,
        principal: Principal,
        asked: Asked,
        *,
        text: str = "",
        input: object = None,  # noqa: A002  the record's field
        on_busy: OnBusy = "enqueue",
    ) -> StartTurn:
        """Return a `StartTurn` that workers take; `input` is a JSON value, None beside a text.

        Raises `InvalidRequestError`.
        """
        command = StartTurn(
            tenant=principal.tenant,
            thread_id=asked.thread_id,
            turn_id=_turn_id(principal.tenant, asked),
            at=time.time_ns() // 1000,
            actor=principal.user,
            traceparent=asked.traceparent,
            correlation_id=asked.correlation_id,
            graph=asked.graph,
            text=text,
            input=_json(input),
            config=_config(principal, asked),
            metadata=_json(asked.metadata),
            expires_at=asked.expires_at,
            on_busy=on_busy,
        )
        return checked(command, self.limits)

    def resume_of(
        self, principal: Principal, asked: Asked, answers: Mapping[str, object]
    ) -> ResumeTurn:
        """Return a `ResumeTurn` that workers take; `answers`: interrupt id to answer.

        Raises `InvalidRequestError`.
        """
        command = ResumeTurn(
            tenant=principal.tenant,
            thread_id=asked.thread_id,
            turn_id=_turn_id(principal.tenant, asked),
            at=time.time_ns() // 1000,
            actor=principal.user,
            traceparent=asked.traceparent,
            correlation_id=asked.correlation_id,
            answers=_json(answers),
            graph=asked.graph,
            config=_config(principal, asked),
            metadata=_json(asked.metadata),
            expires_at=asked.expires_at,
        )
        return checked(command, self.limits)

    async def send(self, command: StartTurn | ResumeTurn, *, wait: bool = True) -> Submitted:
        """Publish a command that this edge made; with `wait`, until its turn is seen to begin."""
        key = thread_key(command.tenant, command.thread_id)
        refusable = isinstance(command, ResumeTurn)
        with self.feed.expect(key, command.turn_id, past_start=refusable) as first:
            await self._append(key, command)
            self._remember(key)
            if not wait:
                return Submitted(turn_id=command.turn_id, state="pending")
            try:
                async with asyncio.timeout(self.start_wait_s):
                    offset, record = await first
            except TimeoutError:
                return Submitted(turn_id=command.turn_id, state="pending")
        if isinstance(record, TurnRejected):
            raise _refused(record)
        if isinstance(record, TurnEnded) and record.outcome == "rejected":
            raise ConflictError(record.message, code=record.code or "rejected")
        return Submitted(
            turn_id=command.turn_id,
            state="ended" if record.terminal else "started",
            record=record,
            applied_through=first_seq(self.feed.incarnation, offset) - 1,
        )

    async def cancel(
        self,
        principal: Principal,
        thread_id: str,
        turn_id: str,
        *,
        reason: str = "",
        rollback: bool = False,
    ) -> None:
        """Publish a `CancelTurn`; returns when Kafka has it. An ended turn stays as it is."""
        command = CancelTurn(
            tenant=principal.tenant,
            thread_id=thread_id,
            turn_id=str(parse_turn_id(turn_id)),
            at=time.time_ns() // 1000,
            actor=principal.user,
            reason=reason,
            rollback=rollback,
        )
        checked(command, self.limits)
        await self._append(thread_key(principal.tenant, thread_id), command)

    def is_recent(self, key: str) -> bool:
        """Return whether this edge sent a turn for the thread lately; the ledger may be behind."""
        return self._recent is not None and key in self._recent

    def forget(self, key: str) -> None:
        """Treat a thread as not recent, because it was deleted."""
        if self._recent is not None:
            self._recent.pop(key, None)

    def check_room(self) -> None:
        """Raise an `UnavailableError` where no turn is taken; called before any work for one."""
        self.gate.check(starts=True)

    async def _append(self, key: str, command: Command) -> None:
        value = self.log.encode(command)
        size = len(value) + len(key.encode()) + RECORD_OVERHEAD_BYTES
        if size > COMMAND_BYTES_MAX:
            raise RecordTooLargeError(
                f"the command has {size} bytes, {COMMAND_BYTES_MAX} are allowed",
                code="command_too_large",
            )
        starts = not isinstance(command, CancelTurn)
        self.gate.check(starts=starts)
        if starts:
            self.gate.started()
        await self.log.append(key, type(command), value)

    def _remember(self, key: str) -> None:
        recent = self._recent = OrderedDict() if self._recent is None else self._recent
        recent[key] = None
        recent.move_to_end(key)
        if len(recent) > RECENT_MAX:
            recent.popitem(last=False)


def check_expires_at(micros: int) -> int:
    """Return a turn's `expires_at`; raises ValueError for what can only be a mistake.

    It is in microseconds since 1970, so seconds or milliseconds would lie in the past. This clock
    only finds mistakes; the database's clock decides when a turn expires.
    """
    ahead = micros - time.time_ns() // 1000
    if ahead <= 0:
        raise ValueError("expires_at is in the past (it is in microseconds since 1970)")
    if ahead > EXPIRES_IN_S_MAX * 1_000_000:
        raise ValueError("expires_at is more than 10 years ahead (microseconds since 1970)")
    return micros


def _refused(record: TurnRejected) -> InvalidRequestError | ConflictError:
    """Return what a turn was refused with; an answer that does not fit names its field first."""
    if record.reason == "invalid_answer":
        field, _, why = record.message.partition(": ")
        return InvalidRequestError(why, code=record.reason, field=field)
    return ConflictError(record.message, code=record.reason)


def _json(value: object) -> str:
    """Return a JSON value as the text that a command carries, "" for None."""
    return "" if value is None else compact(value)


def _config(principal: Principal, asked: Asked) -> str:
    """Return the config with the verified caller in it, as JSON text.

    A token may hold lone surrogates, which a client's own values cannot.
    """
    if principal.verified:
        check_label("actor", principal.user)
    try:
        return _json(config_for(principal, asked.config))
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            "config is not JSON: a text in it holds a lone surrogate",
            code="invalid_config",
            field="config",
        ) from error


def _turn_id(tenant: str, asked: Asked) -> str:
    if asked.turn_id and asked.idempotency_key:
        raise InvalidRequestError("give turn_id or idempotency_key, not both", field="turn_id")
    if asked.turn_id:
        return str(parse_turn_id(asked.turn_id))
    if asked.idempotency_key:
        check_idempotency_key(asked.idempotency_key)
        return str(turn_id_of_key(tenant, asked.idempotency_key))
    return str(new_turn_id())
