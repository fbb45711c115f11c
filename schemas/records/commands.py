"""Commands on the input topics: one Struct per record, mirrored by `avro/<Name>.avsc`.

On an input topic a command may also be one JSON object with the same fields. There `type` names the
command (default `StartTurn`), fields with a default may be left out, and `input`, `config`,
`metadata` and `answers` may be JSON values instead of JSON text.
"""

from __future__ import annotations

from typing import Literal

import msgspec

OnBusy = Literal["enqueue", "reject", "interrupt", "rollback"]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope of a command.

    `tenant` may be empty: it follows from the topic. A tenant that contradicts the topic is
    refused.
    `turn_id` is a UUID; for `StartTurn` and `ResumeTurn` it may be empty and is then derived from
    `idempotency_key`, or else from the record's topic, partition and offset. `at` and `expires_at`
    are microseconds since 1970 (0: never).
    """

    tenant: str = ""
    thread_id: str
    turn_id: str = ""
    idempotency_key: str = ""
    at: int = 0
    actor: str = ""
    traceparent: str = ""
    correlation_id: str = ""


class StartTurn(Command, frozen=True, kw_only=True):
    """Run `graph` on the thread with a new input.

    Exactly one of `text` (one user message) and `input` (the graph's input, JSON text) is given.
    `config` and `metadata` are JSON text as LangGraph knows them. `priority` is accepted and
    changes nothing, here and in `ResumeTurn`: no worker orders turns by it.
    """

    graph: str = "agent"
    text: str = ""
    input: str = ""
    config: str = ""
    metadata: str = ""
    expires_at: int = 0
    priority: int = 0
    on_busy: OnBusy = "enqueue"


class ResumeTurn(Command, frozen=True, kw_only=True):
    """Answer interrupts of the thread: `answers` is a JSON object, interrupt id to answer."""

    answers: str
    graph: str = "agent"
    config: str = ""
    metadata: str = ""
    expires_at: int = 0
    priority: int = 0


class CancelTurn(Command, frozen=True, kw_only=True):
    """Stop the turn `turn_id`; its text is kept, unless `rollback` is set."""

    reason: str = ""
    rollback: bool = False


COMMANDS: tuple[type[Command], ...] = (StartTurn, ResumeTurn, CancelTurn)
