"""The ledger: admitted turns, their owners and their outcomes. Writes through the SQL functions.

Each call is one transaction. A call that raises `DatabaseUnavailableError` may or may not have been
committed: an intake then seeks to `position`, an owner ends the attempt.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from turnstream.connectors.postgres.ledger import decode
from turnstream.connectors.postgres.ledger.calls import Calls
from turnstream.connectors.postgres.ledger.rows import (
    Admission,
    Admitted,
    Claim,
    Closed,
    Ended,
    Expired,
    ExpiredInterrupt,
    Finish,
    Moved,
    Reused,
    ThreadRow,
    TurnRow,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

__all__ = [
    "Admission",
    "Admitted",
    "Claim",
    "Closed",
    "Ended",
    "Expired",
    "ExpiredInterrupt",
    "Finish",
    "Ledger",
    "Moved",
    "Reused",
    "ThreadRow",
    "TurnRow",
]

SWEEP_GRACE_S = 2.0
_TROUBLE_CHARS_MAX = 500

_ADMIT = "SELECT * FROM admit({})".format(", ".join(f"${i}" for i in range(1, 21)))
_FINISH = "SELECT * FROM finish($1, $2, $3, $4, $5, $6)"
_RECLAIM = "SELECT * FROM reclaim($1, $2)"
_RELEASE = "SELECT release FROM release($1, $2, $3)"
_EXCUSE = "SELECT excuse($1, $2, $3)"
_SWEEP = "SELECT * FROM sweep($1, $2)"
_EXPIRE = "SELECT * FROM expire($1)"
_EXPIRED_DUE = "SELECT * FROM expired_interrupts_due($1, $2)"
_EXPIRED_TOLD = "SELECT expired_interrupts_told($1, $2, $3)"
_CLOSE = "SELECT close_ended($1, $2, $3, $4)"
_POSITION = "SELECT next_off FROM intake WHERE topic = $1 AND partition = $2"
_OPEN_POSITION = "INSERT INTO intake VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_OWNED = "SELECT thread_key, epoch FROM threads WHERE owner = $1"
_CANCELS = """
SELECT thread_key, epoch, cancel FROM threads
 WHERE thread_key = ANY ($1) AND cancel IS NOT NULL
"""
_STOP_TAKING = "UPDATE workers SET taking = false WHERE worker = $1"
_PEER_HEARS = "SELECT peer_hears($1, $2)"
_PURGE = "SELECT * FROM purge($1, $2)"
_WORKERS = """
SELECT count(*) FROM workers WHERE timeline = timeline() AND lease_until > clock_timestamp()
"""
_UNCLOSED = "SELECT sum(unclosed)::bigint FROM tally"


class Ledger:
    """The ledger over a pool of connections; every method may be called concurrently."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._calls = Calls(pool)

    async def position(self, topic: str, partition: int) -> int | None:
        """Return the next offset to read of an input partition, None if none was ever opened."""
        return await self._calls.number_or_none(_POSITION, topic, partition)

    async def open_position(self, topic: str, partition: int, start: int) -> int:
        """Return the partition's position, set to `start` if it has none."""
        await self._calls.rows(_OPEN_POSITION, topic, partition, start)
        return await self._calls.number(_POSITION, topic, partition)

    async def admit(
        self,
        topic: str,
        partition: int,
        at: int,
        next_off: int,
        commands: Sequence[Admission],
        *,
        worker: UUID,
        room: int,
    ) -> Admitted | Moved | Reused:
        """Admit a batch that begins at offset `at`, and claim up to `room` of its idle threads.

        A1 to A4 of the rules. Nothing is written if the ledger's position is not `at` (`Moved`; a
        partition that was never opened has none), or if a turn id comes with another body
        (`Reused`: leave those out and call again, with the same `at` and `next_off`).
        """
        columns = zip(*map(decode.command_row, commands), strict=True) if commands else ((),) * 14
        arrays = [list(column) for column in columns]
        rows = await self._calls.rows_or_reused(
            _ADMIT, topic, partition, at, next_off, worker, room, *arrays
        )
        if isinstance(rows, Reused):
            return rows
        if rows and rows[0]["what"] == "moved":
            return Moved(position=rows[0]["position"])
        return Admitted(
            claims=decode.claims(rows),
            ended=decode.ends(rows),
            woke=decode.thread_keys(rows, "woken"),
            cancelled=decode.thread_keys(rows, "cancel"),
        )

    async def reclaim(self, worker: UUID, room: int) -> list[Claim]:
        """Claim up to `room` threads that wait in `ready`, those that wait longest first."""
        return (
            list(decode.claims(await self._calls.rows(_RECLAIM, worker, room))) if room > 0 else []
        )

    async def finish(
        self, worker: UUID, room: int, items: Sequence[Finish | tuple[str, int, int | None]]
    ) -> list[Claim]:
        """Close turns whose terminals are acked; claim up to `room` of their threads' next turns.

        Rule W9. A fenced item is dropped silently, and so is one whose turn has no outcome.
        """
        if not items:
            return []
        full = [Finish(*item) for item in items]
        rows = await self._calls.rows(_FINISH, worker, room, *map(list, zip(*full, strict=True)))
        return list(decode.claims(rows))

    async def release(self, items: Sequence[tuple[str, int]], trouble: str = "") -> list[str]:
        """Give threads (key, epoch) back in mid-turn; return those that now wait for an owner.

        This counts as an attempt only if `trouble` says what broke. Then the thread also waits,
        longer with each attempt. A fenced item is dropped.
        """
        if not items:
            return []
        keys, epochs = map(list, zip(*items, strict=True))
        why = trouble.replace("\x00", "\ufffd")[:_TROUBLE_CHARS_MAX] or None
        return [row[0] for row in await self._calls.rows(_RELEASE, keys, epochs, why)]

    async def excuse(self, items: Sequence[tuple[str, int, int]]) -> None:
        """Do not count these attempts (key, seq, epoch): they ended with a lease that was lost.

        The worker ran, and the database could not be reached, so the turn is not to blame.
        """
        if items:
            await self._calls.rows(_EXCUSE, *map(list, zip(*items, strict=True)))

    async def owned(self, worker: UUID) -> list[tuple[str, int]]:
        """Return the threads (key, epoch) that this worker owns; reads all threads."""
        rows = await self._calls.rows(_OWNED, worker)
        return [(row[0], row[1]) for row in rows]

    async def cancels(self, thread_keys: Sequence[str]) -> list[tuple[str, int, str]]:
        """Return (key, epoch, cause) of each of the threads whose running turn is to stop."""
        rows = await self._calls.rows(_CANCELS, list(thread_keys))
        return [(row[0], row[1], row[2]) for row in rows]

    async def close_ended(self, items: Sequence[Closed], timeline: int) -> int:
        """Close unclaimed ends whose `TurnEnded` is acked; return how many were not closed yet.

        Closes nothing if the ledger's timeline has changed since.
        """
        if not items:
            return 0
        keys, turns, offsets = map(list, zip(*items, strict=True))
        return await self._calls.number(_CLOSE, keys, turns, offsets, timeline)

    async def sweep(self, limit: int, *, grace_s: float = SWEEP_GRACE_S) -> list[Ended]:
        """Return unclaimed ends that were not closed in time.

        Other callers get them only after `grace_s`.
        """
        return list(decode.ends(await self._calls.rows(_SWEEP, limit, timedelta(seconds=grace_s))))

    async def expire(self, limit: int) -> Expired:
        """End at most `limit` turns that waited too long, and close interrupts. Call it regularly.

        A turn that runs is asked to stop. The caller publishes what `expired_interrupts` returns.
        """
        rows = await self._calls.rows(_EXPIRE, limit)
        return Expired(ended=decode.ends(rows), cancelled=decode.thread_keys(rows, "cancel"))

    async def expired_interrupts(
        self, limit: int, *, grace_s: float = SWEEP_GRACE_S
    ) -> list[ExpiredInterrupt]:
        """Return expired interrupts that were not published; other callers get them later."""
        rows = await self._calls.rows(_EXPIRED_DUE, limit, timedelta(seconds=grace_s))
        return [ExpiredInterrupt(**row) for row in rows]

    async def interrupts_told(self, told: Sequence[ExpiredInterrupt]) -> None:
        """Note that these expired interrupts are published."""
        columns = zip(*((one.thread_key, one.interrupt_id, one.rev) for one in told), strict=True)
        await self._calls.rows(_EXPIRED_TOLD, *map(list, columns))

    async def reap(self) -> int:
        """Free the threads of dead workers; return how many threads. Call it regularly."""
        total = 0
        while (freed := await self._calls.number_or_none("SELECT reap()")) is not None:
            total += freed
        return total

    async def stop_taking(self, worker: UUID) -> None:
        """Note that a worker claims nothing more, so that peers do not wake it."""
        await self._calls.rows(_STOP_TAKING, worker)

    async def peer_hears(self, worker: UUID, within_s: float) -> bool:
        """Return whether another live worker had an answer from Kafka within `within_s`."""
        return bool(
            await self._calls.number_or_none(_PEER_HEARS, worker, timedelta(seconds=within_s))
        )

    async def open_total(self) -> int:
        """Return how many admitted turns are not closed, over all threads."""
        return await self._calls.number(_UNCLOSED)

    async def workers(self) -> int:
        """Return how many workers hold a lease."""
        return await self._calls.number(_WORKERS)

    async def timeline(self) -> int:
        """Return the timeline; it rises when the database is restored or fails over."""
        return await self._calls.number("SELECT timeline()")

    async def purge(self, age: timedelta, limit: int) -> dict[str, int]:
        """Delete rows older than `age`, at most `limit` a table; return how many, by table.

        A turn's age counts from its close; its id may then be used again. Does nothing and returns
        an empty dict while another caller purges.
        """
        return {row[0]: row[1] for row in await self._calls.rows(_PURGE, age, limit)}

    async def turn(self, tenant: str, turn_id: UUID) -> TurnRow | None:
        """Return a turn, None if it is not (or no longer) in the ledger."""
        rows = await self._calls.rows(decode.TURN, tenant, turn_id)
        return decode.turn(rows[0]) if rows else None

    async def turns_of(
        self, thread_key: str, limit: int, *, before: int | None = None
    ) -> list[TurnRow]:
        """Return a thread's turns, the newest first, with a `seq` below `before` if given."""
        rows = await self._calls.rows(decode.TURNS_OF, thread_key, limit, before)
        return [decode.turn(row) for row in rows]

    async def thread(self, thread_key: str) -> ThreadRow | None:
        """Return a thread, None if nothing was ever admitted for it."""
        rows = await self._calls.rows(decode.THREAD, thread_key)
        return decode.thread(rows[0]) if rows else None
