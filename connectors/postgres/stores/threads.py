"""Threads as clients know them: metadata, times and status, made of `thread_info` and the ledger.

A thread exists if it is in either table and was not deleted. Reads `thread_info`, `threads` and
`turns`; writes `thread_info` only.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import asyncpg
import msgspec

from turnstream.connectors.postgres.pools import FAILURES
from turnstream.schemas.errors import DatabaseUnavailableError, InvalidRequestError, TooLargeError
from turnstream.schemas.ids import split_thread_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

Status = Literal["idle", "busy", "interrupted", "error"]
SortBy = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]

# $1: first key, $2: the key after the last. "/" is followed by "0", so one tenant is one range of
# the primary key. `busy` as in the ledger's own view. The outcome is looked at as text: its status
# comes first, and its JSON operators fail where a model's text holds U+0000. A thread outlives its
# turns: what it ran last, and when, stands on its own row too.
_THREADS = """
SELECT thread_key, coalesce(i.metadata, '{}') AS metadata,
       least(i.created_at, t.created_at) AS created_at,
       greatest(i.updated_at, t.created_at, t.head_at, last.created_at,
                last.closed_at) AS updated_at,
       CASE WHEN EXISTS (SELECT FROM turns b WHERE b.thread_key = t.thread_key
                          AND b.seq >= t.settled AND b.outcome IS NULL) THEN 'busy'
            WHEN t.interrupt IS NOT NULL THEN 'interrupted'
            WHEN last.outcome::text LIKE '{"status":"failed"%' THEN 'error'
            ELSE 'idle' END AS status,
       coalesce(last.graph, t.graph) AS graph, t.interrupt
  FROM (SELECT * FROM threads WHERE thread_key >= $1 AND thread_key < $2) t
  FULL JOIN (SELECT * FROM thread_info WHERE thread_key >= $1 AND thread_key < $2) i
       USING (thread_key)
  LEFT JOIN LATERAL (SELECT graph, outcome, created_at, closed_at FROM turns u
                      WHERE u.thread_key = t.thread_key ORDER BY seq DESC LIMIT 1) last ON true
 WHERE i.deleted_at IS NULL
"""
_FOUND = f"""
SELECT * FROM ({_THREADS}) x
 WHERE ($3::jsonb IS NULL OR metadata @> $3) AND ($4::text IS NULL OR status = $4)
   AND ($5::text[] IS NULL OR thread_key = ANY($5))
"""
# $8: bytes of metadata that one answer may hold; what is beyond has null there. $9: with metadata
_PAGE = """
SELECT thread_key, created_at, updated_at, status, graph, interrupt,
       CASE WHEN NOT $9::boolean THEN '{{}}' WHEN total <= $8::bigint THEN metadata END AS metadata
  FROM (SELECT f.*, sum(octet_length(metadata::text))
                    OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) AS total
          FROM ({found} ORDER BY {order} LIMIT $6 OFFSET $7) f) g
 ORDER BY {order}
"""
_GET = _THREADS  # with a range that holds one key
_CREATE = """
INSERT INTO thread_info (thread_key, metadata) VALUES ($1, $2)
ON CONFLICT (thread_key) DO UPDATE
   SET metadata = excluded.metadata, created_at = now(), updated_at = now(), deleted_at = NULL
 WHERE thread_info.deleted_at IS NOT NULL
RETURNING thread_key
"""
# $3: bytes of metadata that the thread may have then; null: any
_ENSURE = """
WITH changed AS (
INSERT INTO thread_info (thread_key, metadata) VALUES ($1, $2)
ON CONFLICT (thread_key) DO UPDATE
   SET metadata = CASE WHEN thread_info.deleted_at IS NULL THEN thread_info.metadata || $2
                       ELSE $2 END,
       created_at = CASE WHEN thread_info.deleted_at IS NULL THEN thread_info.created_at
                         ELSE now() END,
       updated_at = now(), deleted_at = NULL
 WHERE thread_info.deleted_at IS NOT NULL
    OR NOT thread_info.metadata @> $2
       AND ($3::bigint IS NULL OR octet_length((thread_info.metadata || $2)::text) <= $3)
RETURNING 1)
SELECT EXISTS (SELECT FROM changed)
    OR EXISTS (SELECT FROM thread_info
                WHERE thread_key = $1 AND deleted_at IS NULL AND metadata @> $2) AS kept
"""
_ENSURE_TRIES = 2
_DELETE = """
WITH calls AS (DELETE FROM tool_calls WHERE thread_key = $1)
INSERT INTO thread_info (thread_key, deleted_at) VALUES ($1, now())
ON CONFLICT (thread_key) DO UPDATE
   SET deleted_at = now(), metadata = '{}' WHERE thread_info.deleted_at IS NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadInfo:
    """A thread as clients know it. `graph`: what its newest turn ran; `interrupts`: open ids."""

    thread_key: str
    metadata: dict[str, object]
    created_at: datetime
    updated_at: datetime
    status: Status
    graph: str | None
    interrupts: tuple[str, ...] = ()

    @property
    def thread_id(self) -> str:
        """Return the thread's id within its tenant."""
        return split_thread_key(self.thread_key)[1]


class Threads:
    """Threads over a pool of connections; every method may be called concurrently."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def get(self, key: str) -> ThreadInfo | None:
        """Return a thread, None if there is none or it was deleted."""
        # no key lies between a text and the same with U+0001 behind it
        rows = await self._rows(_GET, key, key + "\x01")
        return _thread(rows[0]) if rows else None

    async def exists(self, key: str) -> bool:
        """Return whether there is such a thread."""
        return await self.get(key) is not None

    async def create(self, key: str, metadata: Mapping[str, object]) -> bool:
        """Create a thread; False if there is one already. A deleted thread begins anew."""
        if await self.get(key) is not None:
            return False
        return bool(await self._rows(_CREATE, key, _json(metadata)))

    async def ensure(
        self, key: str, metadata: Mapping[str, object], *, bytes_max: int | None = None
    ) -> None:
        """Create a thread if there is none, and merge metadata into it.

        Raises `TooLargeError` (`metadata_too_large`), and changes nothing, where the thread's
        metadata would have more than `bytes_max` bytes as Postgres writes it.
        """
        for _ in range(_ENSURE_TRIES):  # the first may miss a row that came at the same time
            rows = await self._rows(_ENSURE, key, _json(metadata), bytes_max)
            if rows[0]["kept"]:
                return
        if bytes_max is not None:
            raise TooLargeError(
                f"the thread's metadata would have more than {bytes_max} bytes",
                code="metadata_too_large",
                field="metadata",
            )

    async def delete(self, key: str) -> None:
        """Mark a thread as deleted; a second time changes nothing."""
        await self._rows(_DELETE, key)

    async def search(
        self,
        tenant: str,
        *,
        metadata: Mapping[str, object] | None = None,
        status: Status | None = None,
        ids: Sequence[str] | None = None,
        limit: int = 10,
        offset: int = 0,
        sort_by: SortBy = "created_at",
        descending: bool = True,
        bytes_max: int = 1 << 24,
        with_metadata: bool = True,
    ) -> list[ThreadInfo] | None:
        """Return a tenant's threads for which all conditions hold; `metadata` is contained.

        None where the metadata of those found has more than `bytes_max` bytes; without it, threads
        have an empty one.
        """
        column = {"thread_id": "thread_key", "state_updated_at": "updated_at"}.get(sort_by, sort_by)
        way = "DESC" if descending else "ASC"
        sql = _PAGE.format(found=_FOUND, order=f"{column} {way}, thread_key")
        where = _conditions(tenant, metadata, status, ids)
        rows = await self._rows(sql, *where, limit, offset, bytes_max, with_metadata)
        if rows and rows[-1]["metadata"] is None:
            return None
        return [_thread(row) for row in rows]

    async def count(
        self,
        tenant: str,
        *,
        metadata: Mapping[str, object] | None = None,
        status: Status | None = None,
    ) -> int:
        """Return how many of a tenant's threads there are for which all conditions hold."""
        where = _conditions(tenant, metadata, status, None)
        rows = await self._rows(f"SELECT count(*) AS found FROM ({_FOUND}) y", *where)
        return int(rows[0]["found"])

    async def _rows(self, sql: str, *values: object) -> list[asyncpg.Record]:
        with _wrapped():
            return list(await self._pool.fetch(sql, *values))


def _conditions(
    tenant: str,
    metadata: Mapping[str, object] | None,
    status: Status | None,
    ids: Sequence[str] | None,
) -> tuple[object, ...]:
    keys = None if ids is None else [f"{tenant}/{one}" for one in ids]
    return f"{tenant}/", f"{tenant}0", _json(metadata) if metadata else None, status, keys


def _thread(row: asyncpg.Record) -> ThreadInfo:
    interrupt = row["interrupt"]
    return ThreadInfo(
        thread_key=row["thread_key"],
        metadata=msgspec.json.decode(row["metadata"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        status=row["status"],
        graph=row["graph"],
        interrupts=tuple(msgspec.json.decode(interrupt)["ids"]) if interrupt else (),
    )


def _json(value: Mapping[str, object]) -> str:
    return msgspec.json.encode(value).decode()


@contextmanager
def _wrapped() -> Iterator[None]:
    try:
        yield
    except (asyncpg.DataError, asyncpg.CharacterNotInRepertoireError) as error:
        raise InvalidRequestError(
            f"the database cannot hold this: {error}", field="metadata"
        ) from error
    except FAILURES as error:
        raise DatabaseUnavailableError(f"the threads' table does not answer: {error!r}") from error
