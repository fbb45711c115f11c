"""Outcomes of turns: the ledger's JSON, and the records that other systems read."""

from __future__ import annotations

from typing import Literal

import msgspec

from turnstream.schemas.records.events import Interrupt, Usage

Status = Literal["completed", "interrupted", "cancelled", "rejected", "failed"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A turn's end, as the ledger holds it (JSON); the terminal event has the same fields.

    `code`: of a failure, a rejection or (as cause) a cancel. `message_id`, `text` and `sha256`: the
    last assistant message, or what a cancelled turn had emitted. `usage`: of the model calls whose
    answers the turn shows; `lost_usage`: of answers that were whole and taken back, by a retry or
    by the end of an attempt. `attempts`: how many there were when it was decided; `at`: when (µs
    since 1970). If the ledger decided by itself, `attempts` is 0 and `at` is by its clock.
    """

    status: Status
    code: str = ""
    retryable: bool = False
    message: str = ""
    message_id: str = ""
    text: str = ""
    sha256: str = ""
    usage: list[Usage] = msgspec.field(default_factory=list)
    lost_usage: list[Usage] = msgspec.field(default_factory=list)
    interrupts: list[Interrupt] = msgspec.field(default_factory=list)
    attempts: int = 0
    at: int = 0


class Carried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt hands on to the next one of its turn, as the ledger holds it (JSON).

    `usage` and `lost_usage` as in `Outcome`, of what is committed; `message_id`: the last message
    with text that stays shown.
    """

    usage: list[Usage] = msgspec.field(default_factory=list)
    lost_usage: list[Usage] = msgspec.field(default_factory=list)
    message_id: str = ""


DEAD_LETTER = "dead_letter"
"""The code of the result of a record that became a dead letter; see `docs/dead_letters.md`."""


class TurnResult(msgspec.Struct, frozen=True, kw_only=True):
    """One a turn, on `turn-results.<tenant>`; repeats are equal, readers keep the first.

    A result with code `dead_letter` is provisional: the turn's own result, which follows if the
    letter `letter_id` is requeued, replaces it, and it replaces none.

    `event_id` is derived from the turn alone. `usage` is what counts for the turn: of the model
    calls whose answers it shows. `lost_usage` was spent on answers that were whole and then taken
    back, as far as a commit or the last attempt knew of them; what a model server counted for
    answers that never became whole is in neither. `attempts` says how many workers had it.
    """

    event_id: str
    tenant: str
    thread_id: str
    turn_id: str
    correlation_id: str = ""
    status: Status
    code: str = ""
    retryable: bool = False
    message: str = ""
    message_id: str = ""
    text: str = ""
    sha256: str = ""
    usage: list[Usage] = msgspec.field(default_factory=list)
    interrupts: list[Interrupt] = msgspec.field(default_factory=list)
    attempts: int = 0
    at: int = 0
    actor: str = ""
    traceparent: str = ""
    lost_usage: list[Usage] = msgspec.field(default_factory=list)
    letter_id: str = ""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A refused record: its raw bytes, the reason, the time (µs since 1970) and the origin.

    `letter_id` names the record that was refused first, also after it was requeued (with an edit or
    without) and refused again; `requeues` counts these requeues.
    """

    code: str
    message: str
    tenant: str = ""
    topic: str
    partition: int
    offset: int
    at: int
    key: bytes = b""
    value: bytes = b""
    letter_id: str = ""
    requeues: int = 0


class UsageTotal(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one tenant and model in one window; a later record of the same key replaces it."""

    tenant: str
    window_start: int
    window_s: int
    model: str
    turns: int
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cached_tokens: int


RESULTS: tuple[type[msgspec.Struct], ...] = (TurnResult, DeadLetter, UsageTotal)
