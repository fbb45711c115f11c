"""Rows of the ledger to values and back, and the statements that only read. No I/O."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from turnstream.connectors.postgres.ledger.rows import (
    Answering,
    Claim,
    Ended,
    Resolved,
    ThreadRow,
    TurnRow,
)
from turnstream.schemas.ids import split_thread_key
from turnstream.schemas.records.events import Keep
from turnstream.schemas.records.results import Carried, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncpg import Record as Row

    from turnstream.connectors.postgres.ledger.rows import Admission

_outcome = msgspec.json.Decoder(Outcome)
_carried = msgspec.json.Decoder(Carried)
_NOTHING = Carried()
_keep = msgspec.json.Decoder(list[Keep])

_TURNS = """
SELECT u.tenant, u.turn_id, u.thread_key, u.seq, u.kind, u.graph, u.origin, u.body, u.src_topic,
       u.src_part, u.src_off, u.actor, u.outcome, u.expires_at, u.created_at, u.closed_at,
       u.seq = t.head AS running,
       CASE WHEN u.seq = t.head THEN t.attempts ELSE u.attempts END AS attempts,
       CASE WHEN u.seq = t.head THEN t.head_off ELSE u.first_off END AS first_off
  FROM turns u JOIN threads t USING (thread_key)
"""
TURN = _TURNS + "WHERE u.tenant = $1 AND u.turn_id = $2"
TURNS_OF = (
    _TURNS
    + "WHERE u.thread_key = $1 AND u.seq < coalesce($3::bigint, 9223372036854775807)"
    + " ORDER BY u.seq DESC LIMIT $2"
)
THREAD = """
SELECT t.thread_key, t.partition, t.epoch, t.owner, t.cancel, t.interrupt, t.graph, t.head_off,
       t.last_off,
       coalesce(t.first_off, t.head_off) AS first_off, t.created_at, h.turn_id AS head,
       timeline() AS timeline,
       EXISTS (SELECT FROM turns q WHERE q.thread_key = t.thread_key AND q.seq >= t.settled
                AND q.outcome IS NULL) AS busy
  FROM threads t LEFT JOIN turns h ON h.thread_key = t.thread_key AND h.seq = t.head
 WHERE t.thread_key = $1
"""


def command_row(c: Admission) -> tuple[object, ...]:
    """Return the values of a command in the order of `admit`'s arrays."""
    return (
        c.kind,
        c.tenant,
        c.turn_id,
        c.thread_key,
        c.partition,
        c.src_off,
        c.body,
        c.body_sha,
        c.graph,
        c.known,
        c.on_busy,
        c.expires_at,
        json.dumps(c.answers),
        c.actor,
    )


def claim(row: Row) -> Claim:
    """Return the claim in a row of admit, reclaim or finish."""
    return Claim(
        thread_key=row["thread_key"],
        tenant=row["tenant"],
        thread_id=split_thread_key(row["thread_key"])[1],
        partition=row["partition"],
        turn_id=row["turn_id"],
        seq=row["seq"],
        epoch=row["epoch"],
        kind=row["kind"],
        graph=row["graph"],
        origin=row["origin"],
        body=row["body"],
        src_topic=row["src_topic"],
        src_part=row["src_part"],
        src_off=row["src_off"],
        base=row["base"],
        keep_n=row["keep_n"],
        high_n=row["high_n"],
        keep=() if row["keep"] == "[]" else tuple(_keep.decode(row["keep"])),
        attempts=row["attempts"],
        outcome=outcome(row["outcome"]),
        cancel=row["cancel"],
        started_again=row["again"],
        first_off=row["head_off"],
        resolved=_resolved(row["resolved"]),
        parked=row["parked"] or "",
        carried=_carried.decode(row["carried"]) if row["carried"] else _NOTHING,
        age_s=row["age_s"],
        answering=_answering(row["answering"]),
    )


def ended(row: Row) -> Ended:
    """Return the unclaimed end in a row of admit or sweep."""
    return Ended(
        thread_key=row["thread_key"],
        tenant=row["tenant"],
        thread_id=split_thread_key(row["thread_key"])[1],
        partition=row["partition"],
        turn_id=row["turn_id"],
        seq=row["seq"],
        graph=row["graph"],
        body=row["body"],
        src_topic=row["src_topic"],
        src_part=row["src_part"],
        src_off=row["src_off"],
        outcome=_outcome.decode(row["outcome"]),
        timeline=row["timeline"],
    )


def claims(rows: Iterable[Row]) -> tuple[Claim, ...]:
    """Return the claims among rows of several kinds."""
    return tuple(claim(row) for row in rows if row["what"] == "claim")


def ends(rows: Iterable[Row]) -> tuple[Ended, ...]:
    """Return the unclaimed ends among rows of several kinds."""
    return tuple(ended(row) for row in rows if row["what"] == "ended")


def thread_keys(rows: Iterable[Row], what: str) -> tuple[str, ...]:
    """Return the thread keys of rows of one kind, each once."""
    return tuple(dict.fromkeys(row["thread_key"] for row in rows if row["what"] == what))


def turn(row: Row) -> TurnRow:
    """Return the turn of a row of `TURN` or `TURNS_OF`."""
    values = dict(row)
    result = outcome(values.pop("outcome"))
    running = values.pop("running")
    status = result.status if result else "running" if running else "pending"
    return TurnRow(**values, outcome=result, status=status)


def thread(row: Row) -> ThreadRow:
    """Return the thread of a row of `THREAD`."""
    values = dict(row)
    text = values.pop("interrupt")
    interrupts = tuple(msgspec.json.decode(text)["ids"]) if text else ()
    return ThreadRow(**values, interrupts=interrupts)


def outcome(text: str | None) -> Outcome | None:
    """Return the outcome that the ledger's JSON holds."""
    return _outcome.decode(text) if text else None


def _resolved(text: str | None) -> tuple[Resolved, ...]:
    return tuple(Resolved(**entry) for entry in msgspec.json.decode(text)) if text else ()


def _answering(text: str | None) -> Answering | None:
    if not text:
        return None
    interrupt = msgspec.json.decode(text)
    return Answering(
        tuple(interrupt["ids"]),
        interrupt.get("schemas", {}),
        text.encode(),
        interrupt.get("askers", {}),
    )
