"""Decisions on dead letters: stored before anything is sent; the first decision stands.

Reads and writes `letter_decisions`. Each call is one transaction.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from turnstream.connectors.postgres.pools import FAILURES
from turnstream.schemas.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    import asyncpg

SEND_AGAIN_S = 10.0
"""Seconds after which a requeue that is not noted as sent is sent again."""

_DECIDE = """
INSERT INTO letter_decisions (topic, letter, requeues, what, tenant, actor, note, code, message,
                              place, partition, src_off, edited, key, value, value_sha, due)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, sha256($15),
          CASE WHEN $4 = 'requeue' THEN clock_timestamp() END)
  ON CONFLICT DO NOTHING RETURNING true
"""
_COLUMNS = """d.topic, d.letter, d.requeues, d.what, d.tenant, d.actor, d.note, d.code, d.message,
  d.place, d.partition, d.src_off, d.edited, d.value_sha, d.decided_at, d.sent_at, d.sent_part,
  d.sent_off"""
_OF = f"""
SELECT {_COLUMNS} FROM letter_decisions d
  JOIN unnest($1::text[], $2::uuid[], $3::integer[]) AS x(t, l, r)
    ON (d.topic, d.letter, d.requeues) = (x.t, x.l, x.r)
"""
_HISTORY = f"""
SELECT {_COLUMNS} FROM letter_decisions d
 WHERE topic = $1 AND letter = $2 ORDER BY requeues LIMIT 100
"""
_DUE = "SELECT topic, letter, requeues, partition, key, value FROM due_letters($1, $2, $3)"
_SENT = """
UPDATE letter_decisions
   SET sent_at = clock_timestamp(), sent_part = $4, sent_off = $5,
       due = NULL, key = NULL, value = NULL
 WHERE topic = $1 AND letter = $2 AND requeues = $3 AND sent_at IS NULL
"""


class LetterKey(NamedTuple):
    """A decision's key: the record that was refused first, and how often it had been requeued."""

    topic: str
    letter: UUID
    requeues: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One decision. `place` is the letter's in its topic, `partition` and `src_off` the record's.

    `code` and `message` say why the record had been refused. For a requeue, `edited` is True if
    other bytes were sent, `value_sha` is their SHA-256, and `sent_part`, `sent_off` their place.
    """

    key: LetterKey
    what: Literal["requeue", "drop"]
    tenant: str
    actor: str
    note: str = ""
    code: str
    message: str
    place: str
    partition: int
    src_off: int
    edited: bool = False
    value_sha: bytes | None = None
    decided_at: datetime | None = None
    sent_at: datetime | None = None
    sent_part: int | None = None
    sent_off: int | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """A requeue to carry out: these bytes to this partition."""

    key: LetterKey
    partition: int
    record_key: bytes
    value: bytes


class Letters:
    """The decisions over a pool. Every call raises `DatabaseUnavailableError`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def decide(self, decision: Decision, record: tuple[bytes, bytes] | None) -> bool:
        """Write a decision, with the key and value to send for a requeue; False if there is one.

        After a `DatabaseUnavailableError` the decision may have been written: call it again, or
        read it.
        """
        record_key, value = record or (None, None)
        with _wrapped():
            written = await self._pool.fetchval(
                _DECIDE,
                *decision.key,
                decision.what,
                decision.tenant,
                decision.actor,
                decision.note,
                decision.code,
                decision.message,
                decision.place,
                decision.partition,
                decision.src_off,
                decision.edited,
                record_key,
                value,
            )
        return bool(written)

    async def of(self, keys: Sequence[LetterKey]) -> dict[LetterKey, Decision]:
        """Return the decisions on these keys."""
        if not keys:
            return {}
        with _wrapped():
            rows = await self._pool.fetch(_OF, *map(list, zip(*keys, strict=True)))
        return {decision.key: decision for decision in map(_decision, rows)}

    async def history(self, topic: str, letter: UUID) -> list[Decision]:
        """Return the decisions on a letter and on its requeues, oldest first."""
        with _wrapped():
            return list(map(_decision, await self._pool.fetch(_HISTORY, topic, letter)))

    async def due(self, topics: Sequence[str], limit: int) -> list[Due]:
        """Return requeues to carry out; no other caller gets them for `SEND_AGAIN_S`."""
        with _wrapped():
            rows = await self._pool.fetch(
                _DUE, list(topics), limit, timedelta(seconds=SEND_AGAIN_S)
            )
        return [
            Due(LetterKey(*row[:3]), row["partition"], row["key"], row["value"]) for row in rows
        ]

    async def sent(self, key: LetterKey, partition: int, offset: int) -> None:
        """Note where a requeued record lies; the first note stands."""
        with _wrapped():
            await self._pool.execute(_SENT, *key, partition, offset)


def _decision(row: asyncpg.Record) -> Decision:
    fields = dict(row)
    key = LetterKey(fields.pop("topic"), fields.pop("letter"), fields.pop("requeues"))
    return Decision(key=key, **fields)


@contextmanager
def _wrapped() -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise DatabaseUnavailableError(
            f"the decisions' table does not answer: {error!r}"
        ) from error
