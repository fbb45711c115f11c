"""One SQL statement for all that a saver writes at once, fenced or not. Pure: rows in, SQL out.

The tables are those of `langgraph-checkpoint-postgres`; a fenced statement also takes the row of
`threads` at the attempt's epoch, or finds none and then writes nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.numeric import Int8

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg.abc import Buffer


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
    checkpoint: bytes
    metadata: bytes


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

    `yields_to`: with these causes in the thread's cancel flag nothing is written ("": with none).
    `expires_at` (µs since 1970, 0: never) is the interrupt's. `rolls_back`: the turn's checkpoints
    go, in every namespace, and so do the pending writes of those that are the last ones then.
    `reopens`: the interrupt is the one that was open before the turn, and nobody is told of it.
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


class _Texts(tuple[Any, ...]):
    """A `text[]` parameter of str or UTF-8 bytes; None is NULL."""

    __slots__ = ()


class _Blobs(tuple[bytes, ...]):
    """A `bytea[]` parameter."""

    __slots__ = ()


class _Ints(tuple[int, ...]):
    """An `int4[]` parameter."""

    __slots__ = ()


_ELEMENTS = {_Texts: (25, 1009), _Blobs: (17, 1001), _Ints: (23, 1007)}


class _ArrayDumper(Dumper):
    """Writes flat arrays in the wire's binary form: psycopg's own list dumper costs 10x more."""

    format = Format.BINARY
    element = 0

    def dump(self, obj: tuple[Any, ...]) -> Buffer | None:
        parts = [b""]
        nulls = 0
        for item in obj:
            if item is None:
                nulls = 1
                parts.append(b"\xff\xff\xff\xff")
                continue
            data = item
            if isinstance(item, str):
                data = item.encode()
            elif isinstance(item, int):
                data = struct.pack(">i", item)
            parts.append(len(data).to_bytes(4, "big"))
            parts.append(data)
        parts[0] = struct.pack(">iiIii", 1, nulls, self.element, len(obj), 1)
        return b"".join(parts)


for _class, (_element, _array) in _ELEMENTS.items():
    psycopg.adapters.register_dumper(
        _class,
        type(f"{_class.__name__}Dumper", (_ArrayDumper,), {"element": _element, "oid": _array}),
    )

_FENCE = """f AS (
 UPDATE threads SET high_n = GREATEST(high_n, %(high_n)b), keep_n = %(keep_n)b,
  keep = %(keep)s::jsonb, base = %(epoch)b, carried = %(carried)s::json,
  head_off = COALESCE(head_off, %(first_off)s::int8){}
 WHERE thread_key = %(thread)s AND epoch = %(epoch)b AND (%(epoch)b >> 40) = timeline(){}
 RETURNING cancel)"""
_FENCED = _FENCE.format("", "")
_OUTCOME = """, o AS (
 UPDATE turns SET outcome = %(outcome)s::json FROM f
 WHERE turns.tenant = %(tenant)s AND turns.turn_id = %(turn)s)"""
_YIELDS = {
    "": "",
    "rollback": " AND cancel IS DISTINCT FROM 'rollback'",
    "any": " AND cancel IS NULL",
}
_EXPIRY = """, x AS (
 INSERT INTO expiries (tenant, turn_id, what, thread_key, at)
 SELECT %(tenant)s, %(turn)s, 'interrupt', %(thread)s, to_timestamp(%(expires_at)s / 1e6) FROM f
 ON CONFLICT (tenant, turn_id, what) DO UPDATE SET at = excluded.at)"""
_ROLLBACK = """, d AS (
 DELETE FROM checkpoints c USING f
 WHERE c.thread_id = %(thread)s AND c.metadata->>'run_id' = %(turn)s::text
 RETURNING c.checkpoint_ns, c.checkpoint_id), l AS (
 SELECT DISTINCT ON (checkpoint_ns) checkpoint_ns, checkpoint_id FROM checkpoints
 WHERE thread_id = %(thread)s AND metadata->>'run_id' IS DISTINCT FROM %(turn)s::text
 ORDER BY checkpoint_ns, checkpoint_id DESC), dw AS (
 DELETE FROM checkpoint_writes w USING f, (SELECT * FROM d UNION ALL SELECT * FROM l) x
 WHERE w.thread_id = %(thread)s AND w.checkpoint_ns = x.checkpoint_ns
  AND w.checkpoint_id = x.checkpoint_id)"""
AHEAD = """
SELECT cancel FROM threads WHERE thread_key = %(thread)s AND epoch = %(epoch)b
 AND (%(epoch)b >> 40) = timeline() AND cancel IS NOT NULL"""
"""After a statement with an `End` that wrote nothing: what it yielded to; no row if fenced."""
_FREE = "f AS (SELECT NULL::text AS cancel)"
_BLOBS = """, b AS (
 INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
 SELECT %(thread)s, x.* FROM f, unnest(%(b0)b, %(b1)b, %(b2)b, %(b3)b, %(b4)b) AS x
 ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING)"""
_WRITES = """, w AS (
 INSERT INTO checkpoint_writes
  (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
 SELECT %(thread)s, x.*
 FROM f, unnest(%(w0)b, %(w1)b, %(w2)b, %(w3)b, %(w4)b, %(w5)b, %(w6)b, %(w7)b) AS x
 ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
 DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob
 WHERE excluded.idx < 0)"""
_CHECKPOINTS = """, c AS (
 INSERT INTO checkpoints
  (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
 SELECT %(thread)s, x.a, x.b, x.c, x.d::jsonb, x.e::jsonb
 FROM f, unnest(%(c0)b, %(c1)b, %(c2)b, %(c3)b, %(c4)b) AS x(a, b, c, d, e)
 ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
 DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata)"""


def statement(
    thread_id: str, rows: Rows, fence: Fence | None = None, end: End | None = None
) -> tuple[str, dict[str, Any]]:
    """Return SQL and parameters; its one row is the cancel flag, no row means fenced.

    `end` needs a `fence`; no row may then also mean that it yielded (`AHEAD` tells). A row of
    `writes` or `checkpoints` that comes twice counts once, since Postgres touches a row only once
    in a statement: ordinary writes keep the first, the others the last (as LangGraph's own savers
    do in separate statements).
    """
    values: dict[str, Any] = {"thread": thread_id}
    head = _FREE
    if fence is not None:
        head = _FENCED if end is None else _end_of(end)
        values.update(
            epoch=Int8(fence.epoch),
            high_n=Int8(fence.high_n),
            keep_n=Int8(fence.keep_n),
            keep=fence.keep.decode(),
            carried=None if fence.carried is None else fence.carried.decode(),
            first_off=None if fence.first_off is None else Int8(fence.first_off),
        )
    if end is not None:
        values.update(
            tenant=end.tenant,
            turn=end.turn_id,
            outcome=end.outcome.decode(),
            interrupt=None if end.interrupt is None else end.interrupt.decode(),
            expires_at=Int8(end.expires_at),
        )
    parts = ["WITH ", head]
    if rows.blobs:
        parts.append(_BLOBS)
        _columns(values, "b", rows.blobs, (_Texts, _Texts, _Texts, _Texts, _Blobs))
    if rows.writes:
        parts.append(_WRITES)
        kinds = (_Texts, _Texts, _Texts, _Texts, _Ints, _Texts, _Texts, _Blobs)
        _columns(values, "w", _once(rows.writes), kinds)
    if rows.checkpoints:
        parts.append(_CHECKPOINTS)
        last = {(row.ns, row.checkpoint_id): row for row in rows.checkpoints}
        _columns(values, "c", last.values(), (_Texts,) * 5)
    parts.append(" SELECT cancel FROM f")
    return "".join(parts), values


def _end_of(end: End) -> str:
    sets = ", interrupt = %(interrupt)s::jsonb" + (", resolved = NULL" if end.reopens else "")
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


def _columns(
    values: dict[str, Any],
    letter: str,
    rows: Iterable[tuple[Any, ...]],
    kinds: tuple[type[tuple[Any, ...]], ...],
) -> None:
    for number, (kind, column) in enumerate(zip(kinds, zip(*rows, strict=True), strict=True)):
        values[f"{letter}{number}"] = kind(column)
