"""Ask for turns: publish commands to `turns`, and wait until the edge's own tail shows them begin.

Every surface of the edge goes through here; none has a path of its own to a worker. A command is
accepted once Kafka acked it: what happens then is the workers' and cannot be lost.
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
from turnstream.schemas.records.command_rules import CommandLimits, check_idempotency_key, checked
from turnstream.schemas.records.commands import CancelTurn, Command, OnBusy, ResumeTurn, StartTurn
from turnstream.schemas.records.events import Event, TurnEnded, TurnRejected
from turnstream.schemas.topics import COMMAND_BYTES_MAX
from turnstream.streams.edge.ask.identity import config_for
from turnstream.streams.edge.follow.cursor import first_seq

if TYPE_CHECKING:
    from turnstream.streams.edge.follow.feed import Feed
    from turnstream.streams.edge.server.auth import Principal

RECENT_MAX = 10_000
EXPIRES_IN_S_MAX = 10 * 365 * 86_400
# Kafka's own framing of a record beside its key and value
RECORD_OVERHEAD_BYTES = 1024


class Gate(Protocol):
    """What says whether commands are taken."""

    def check(self, *, starts: bool) -> None:
        """Raise an `UnavailableError` where they are not."""
        ...

    def started(self) -> None:
        """Note that a command is published that starts a turn."""
        ...


class CommandLog(Protocol):
    """What carries commands: the `turns` topic."""

    async def append(self, key: str, command: Command) -> None:
        """Return once the log has the command; raises `KafkaUnavailableError`."""
        ...

    def size(self, command: Command) -> int:
        """Return the command's size as a record, in bytes."""
        ...


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
        thread_id: str,
        *,
        graph: str = "agent",
        text: str = "",
        input: str = "",  # noqa: A002  the record's field
        config: str = "",
        metadata: str = "",
        on_busy: OnBusy = "enqueue",
        turn_id: str = "",
        idempotency_key: str = "",
        correlation_id: str = "",
        expires_at: int = 0,
        traceparent: str = "",
    ) -> StartTurn:
        """Return a `StartTurn` that workers take; `input`, `config`, `metadata` are JSON text.

        `expires_at`, here and in `resume_of`: 0, or what `check_expires_at` has passed. Raises
        `InvalidRequestError`.
        """
        command = StartTurn(
            tenant=principal.tenant,
            thread_id=thread_id,
            turn_id=_turn_id(principal.tenant, turn_id, idempotency_key),
            at=time.time_ns() // 1000,
            actor=principal.user,
            traceparent=traceparent,
            correlation_id=correlation_id,
            graph=graph,
            text=text,
            input=input,
            config=config_for(principal, config),
            metadata=metadata,
            expires_at=expires_at,
            on_busy=on_busy,
        )
        return checked(command, self.limits)

    def resume_of(
        self,
        principal: Principal,
        thread_id: str,
        *,
        answers: str,
        graph: str = "agent",
        config: str = "",
        metadata: str = "",
        turn_id: str = "",
        idempotency_key: str = "",
        correlation_id: str = "",
        expires_at: int = 0,
    ) -> ResumeTurn:
        """Return a `ResumeTurn` that workers take. `answers`: a JSON object, id to answer."""
        command = ResumeTurn(
            tenant=principal.tenant,
            thread_id=thread_id,
            turn_id=_turn_id(principal.tenant, turn_id, idempotency_key),
            at=time.time_ns() // 1000,
            actor=principal.user,
            correlation_id=correlation_id,
            answers=answers,
            graph=graph,
            config=config_for(principal, config),
            metadata=metadata,
            expires_at=expires_at,
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
        """Say whether this edge sent a turn for the thread lately: the ledger may be behind."""
        return self._recent is not None and key in self._recent

    def forget(self, key: str) -> None:
        """Say no longer that a thread is recent: it was deleted."""
        if self._recent is not None:
            self._recent.pop(key, None)

    def check_room(self) -> None:
        """Raise an `UnavailableError` where no turn is taken: before anything is done for one."""
        self.gate.check(starts=True)

    async def _append(self, key: str, command: Command) -> None:
        size = self.log.size(command) + len(key.encode()) + RECORD_OVERHEAD_BYTES
        if size > COMMAND_BYTES_MAX:
            raise RecordTooLargeError(
                f"the command has {size} bytes, {COMMAND_BYTES_MAX} are allowed",
                code="command_too_large",
            )
        starts = not isinstance(command, CancelTurn)
        self.gate.check(starts=starts)
        if starts:
            self.gate.started()
        await self.log.append(key, command)

    def _remember(self, key: str) -> None:
        recent = self._recent = OrderedDict() if self._recent is None else self._recent
        recent[key] = None
        recent.move_to_end(key)
        if len(recent) > RECENT_MAX:
            recent.popitem(last=False)


def check_expires_at(micros: int) -> int:
    """Return a turn's `expires_at`; raises ValueError for what can only be a mistake.

    It is said in microseconds since 1970: seconds or milliseconds would be in the past. This clock
    only tells mistakes; the database's decides when a turn expires.
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


def _turn_id(tenant: str, turn_id: str, idempotency_key: str) -> str:
    if turn_id and idempotency_key:
        raise InvalidRequestError("give turn_id or idempotency_key, not both", field="turn_id")
    if turn_id:
        return str(parse_turn_id(turn_id))
    if idempotency_key:
        check_idempotency_key(idempotency_key)
        return str(turn_id_of_key(tenant, idempotency_key))
    return str(new_turn_id())
