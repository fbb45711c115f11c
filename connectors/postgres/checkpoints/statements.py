"""Makes one SQL statement of all that a saver writes at once, fenced or not. Pure.

The tables are those of `langgraph-checkpoint-postgres`. A fenced statement also updates the row of
`threads` at the attempt's epoch. Without such a row it writes nothing (docs/rules.md, G1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class BlobRow(NamedTuple):
    """A channel's value at one version."""

    ns: str
    channel: str
    version: str
    type: str
    blob: bytes


class WriteRow(NamedTuple):
    """One pending write of a task; those with `idx` below 0 replace what stands there."""

    ns: str
    checkpoint_id: str
    task_id: str
    task_path: str
    idx: int
    channel: str
    type: str
    blob: bytes


class CheckpointRow(NamedTuple):
    """One checkpoint; `checkpoint` and `metadata` are JSON text."""

    ns: str
    checkpoint_id: str
    parent_id: str | None
    checkpoint: str
    metadata: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """What a fenced statement compares (`thread_key`, `epoch`) and what it sets on the thread."""

    thread_key: str
    epoch: int
    keep_n: int
    high_n: int
    keep: bytes
    first_off: int | None
    carried: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A turn's outcome (JSON text) and the thread's open interrupt (JSON text, None: none).

    `yields_to`: the causes in the thread's cancel flag with which nothing is written ("": none).
    `expires_at` (µs since 1970, 0: never) is the interrupt's. `rolls_back` deletes the turn's
    checkpoints in every namespace, and the pending writes of the checkpoints that are the last ones
    then. `reopens`: the interrupt is the one that was open before the turn.
    """

    tenant: str
    turn_id: Any
    outcome: bytes
    interrupt: bytes | None
    yields_to: Literal["", "rollback", "any"] = "rollback"
    expires_at: int = 0
    rolls_back: bool = False
    reopens: bool = False


@dataclass(slots=True)
class Rows:
    """What one statement inserts."""

    blobs: list[BlobRow] = field(default_factory=list)
    writes: list[WriteRow] = field(default_factory=list)
    checkpoints: list[CheckpointRow] = field(default_factory=list)

    def extend(self, other: Rows) -> None:
        """Add another's rows behind these."""
        self.blobs += other.blobs
        self.writes += other.writes
        self.checkpoints += other.checkpoints


_PARAMETER = re.compile(r"%\((\w+)\)")
_FENCE = """f AS (
 UPDATE threads SET high_n = GREATEST(high_n, %(high_n)::int8), keep_n = %(keep_n)::int8,
  keep = %(keep)::jsonb, base = %(epoch)::int8, carried = %(carried)::json,
  head_off = COALESCE(head_off, %(first_off)::int8){}
 WHERE thread_key = %(thread)::text AND epoch = %(epoch)::int8
  AND (%(epoch)::int8 >> 40) = timeline(){}
 RETURNING cancel)"""
_FENCED = _FENCE.format("", "")
_OUTCOME = """, o AS (
 UPDATE turns SET outcome = %(outcome)::json FROM f
 WHERE turns.tenant = %(tenant)::text AND turns.turn_id = %(turn)::uuid)"""
_YIELDS = {
    "": "",
    "rollback": " AND cancel IS DISTINCT FROM 'rollback'",
    "any": " AND cancel IS NULL",
}
_EXPIRY = """, x AS (
 INSERT INTO expiries (tenant, turn_id, what, thread_key, at)
 SELECT %(tenant)::text, %(turn)::uuid, 'interrupt', %(thread)::text,
  to_timestamp(%(expires_at)::int8 / 1e6) FROM f
 ON CONFLICT (tenant, turn_id, what) DO UPDATE SET at = excluded.at)"""
_ROLLBACK = """, d AS (
 DELETE FROM checkpoints c USING f
 WHERE c.thread_id = %(thread)::text AND c.metadata->>'run_id' = %(turn)::uuid::text
 RETURNING c.checkpoint_ns, c.checkpoint_id), l AS (
 SELECT DISTINCT ON (checkpoint_ns) checkpoint_ns, checkpoint_id FROM checkpoints
 WHERE thread_id = %(thread)::text AND metadata->>'run_id' IS DISTINCT FROM %(turn)::uuid::text
 ORDER BY checkpoint_ns, checkpoint_id DESC), dw AS (
 DELETE FROM checkpoint_writes w USING f, (SELECT * FROM d UNION ALL SELECT * FROM l) x
 WHERE w.thread_id = %(thread)::text AND w.checkpoint_ns = x.checkpoint_ns
  AND w.checkpoint_id = x.checkpoint_id)"""
AHEAD = """
SELECT cancel FROM threads WHERE thread_key = $1 AND epoch = $2
 AND ($2 >> 40) = timeline() AND cancel IS NOT NULL"""
"""Selects the cancel flag that a statement with an `End` yielded to; no row if it was fenced."""
_FREE = "f AS (SELECT NULL::text AS cancel)"
_BLOBS = """, b AS (
 INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
 SELECT %(thread)::text, x.*
 FROM f, unnest(%(b0)::text[], %(b1)::text[], %(b2)::text[], %(b3)::text[], %(b4)::bytea[]) AS x
 ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING)"""
_WRITES = """, w AS (
 INSERT INTO checkpoint_writes
  (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
 SELECT %(thread)::text, x.*
 FROM f, unnest(%(w0)::text[], %(w1)::text[], %(w2)::text[], %(w3)::text[], %(w4)::int4[],
  %(w5)::text[], %(w6)::text[], %(w7)::bytea[]) AS x
 ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
 DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob
 WHERE excluded.idx < 0)"""
_CHECKPOINTS = """, c AS (
 INSERT INTO checkpoints
  (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
 SELECT %(thread)::text, x.a, x.b, x.c, x.d::jsonb, x.e::jsonb
 FROM f, unnest(%(c0)::text[], %(c1)::text[], %(c2)::text[], %(c3)::text[], %(c4)::text[])
  AS x(a, b, c, d, e)
 ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
 DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata)"""


def statement(
    thread_id: str, rows: Rows, fence: Fence | None = None, end: End | None = None
) -> tuple[str, list[object]]:
    """Return SQL and parameters. The statement returns one row, the cancel flag, or none if fenced.

    `end` needs a `fence`. With an `end`, no row may also mean that the statement yielded; `AHEAD`
    tells which. Postgres touches a row only once in a statement. So a row of `writes` or
    `checkpoints` that comes twice counts once: the first of ordinary writes, the last of others, as
    with LangGraph's own savers, which use separate statements.
    """
    values: dict[str, object] = {"thread": thread_id}
    head = _FREE
    if fence is not None:
        head = _FENCED if end is None else _end_of(end)
        values.update(
            epoch=fence.epoch,
            high_n=fence.high_n,
            keep_n=fence.keep_n,
            keep=fence.keep.decode(),
            carried=None if fence.carried is None else fence.carried.decode(),
            first_off=fence.first_off,
        )
    if end is not None:
        values.update(
            tenant=end.tenant,
            turn=end.turn_id,
            outcome=end.outcome.decode(),
            interrupt=None if end.interrupt is None else end.interrupt.decode(),
            expires_at=end.expires_at,
        )
    parts = ["WITH ", head]
    if rows.blobs:
        parts.append(_BLOBS)
        _columns(values, "b", rows.blobs)
    if rows.writes:
        parts.append(_WRITES)
        _columns(values, "w", _once(rows.writes))
    if rows.checkpoints:
        parts.append(_CHECKPOINTS)
        last = {(row.ns, row.checkpoint_id): row for row in rows.checkpoints}
        _columns(values, "c", last.values())
    parts.append(" SELECT cancel FROM f")
    sql, names = _numbered("".join(parts))
    return sql, [values[name] for name in names]


@cache
def _numbered(named: str) -> tuple[str, list[str]]:
    """Return the SQL with numbers for names, and the names in that order.

    There are few different statements, so the cache stays small.
    """
    names: dict[str, int] = {}
    sql = _PARAMETER.sub(lambda name: f"${names.setdefault(name[1], len(names) + 1)}", named)
    return sql, list(names)


def _end_of(end: End) -> str:
    sets = ", interrupt = %(interrupt)::jsonb" + (", resolved = NULL" if end.reopens else "")
    return (
        _FENCE.format(sets, _YIELDS[end.yields_to])
        + _OUTCOME
        + (_EXPIRY if end.expires_at else "")
        + (_ROLLBACK if end.rolls_back else "")
    )


def _once(rows: list[WriteRow]) -> Iterable[WriteRow]:
    if len(rows) == 1:
        return rows
    kept: dict[tuple[str, str, str, int], WriteRow] = {}
    for row in rows:
        key = (row.ns, row.checkpoint_id, row.task_id, row.idx)
        if row.idx < 0:
            kept[key] = row
        else:
            kept.setdefault(key, row)
    return kept.values()


def _columns(values: dict[str, object], letter: str, rows: Iterable[tuple[object, ...]]) -> None:
    for number, column in enumerate(zip(*rows, strict=True)):
        values[f"{letter}{number}"] = column
