"""A migrated database, and one input partition with short words for what stands in it."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING

import pytest

from turnstream.connectors.postgres.ledger.ledger import Admission, Admitted, Finish, Ledger
from turnstream.connectors.postgres.pools import ledger_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from turnstream.connectors.postgres.ledger.ledger import Claim, Moved, Reused


def turn_id(name: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_OID, name)


class Scene:
    """Input partition 0 of topic `turns`, and any number of workers."""

    turn_id = staticmethod(turn_id)

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.ledger = Ledger(pool)
        self.at = 0

    async def worker(self, ttl_s: float = 60.0) -> uuid.UUID:
        worker = uuid.uuid4()
        await self.pool.execute(
            "SELECT register_worker($1, 'w', make_interval(secs => $2))", worker, ttl_s
        )
        return worker

    def start(self, name: str, thread: str = "a", **fields) -> Admission:
        return self._command("start", name, thread, fields)

    def resume(self, name: str, *answers: str, thread: str = "a", **fields) -> Admission:
        return self._command("resume", name, thread, fields | {"answers": answers})

    def cancel(self, name: str, thread: str = "a") -> Admission:
        return self._command("cancel", name, thread, {})

    def _command(self, kind, name, thread, fields) -> Admission:
        body = fields.pop("body", f"{kind} {name} {thread}".encode())
        return Admission(
            kind=kind,
            tenant="acme",
            thread_id=thread,
            thread_key=f"acme/{thread}",
            turn_id=turn_id(name),
            partition=3,
            src_off=fields.pop("src_off", 0),
            body=body,
            body_sha=hashlib.sha256(body).digest(),
            **{"graph": "agent", "actor": "ann"} | fields,
        )

    async def try_admit(
        self, worker: uuid.UUID, *commands: Admission, room: int = 8
    ) -> Admitted | Moved | Reused:
        await self.ledger.open_position("turns", 0, 0)
        end = self.at + len(commands)
        given = await self.ledger.admit(
            "turns", 0, self.at, end, commands, worker=worker, room=room
        )
        if isinstance(given, Admitted):
            self.at = end
        return given

    async def admit(self, worker: uuid.UUID, *commands: Admission, room: int = 8) -> Admitted:
        given = await self.try_admit(worker, *commands, room=room)
        assert isinstance(given, Admitted), given
        return given

    async def settle(
        self, claim: Claim, status: str = "completed", interrupts: tuple[str, ...] = ()
    ) -> bool:
        """Do what the saver does at a turn's end; False if the attempt is fenced."""
        interrupt = {"turn_id": str(claim.turn_id), "ids": interrupts} if interrupts else None
        done = await self.pool.fetch(
            """
            WITH f AS (
              UPDATE threads SET keep_n = 7, high_n = 7, keep = '[]', base = epoch,
                     head_off = coalesce(head_off, 10), interrupt = $4
               WHERE thread_key = $1 AND epoch = $2 AND epoch >> 40 = timeline() RETURNING head)
            UPDATE turns u SET outcome = $3 FROM f
             WHERE u.thread_key = $1 AND u.seq = f.head AND u.outcome IS NULL RETURNING 1
            """,
            claim.thread_key,
            claim.epoch,
            json.dumps({"status": status, "text": "said \x00"}),
            json.dumps(interrupt) if interrupt else None,
        )
        return bool(done)

    async def run(
        self, worker: uuid.UUID, claim: Claim, status: str = "completed", room: int = 8, **fields
    ) -> list[Claim]:
        """Settle a claimed turn and finish it; returns what finish claims."""
        if claim.outcome is None:
            assert await self.settle(claim, status, **fields)
        return await self.ledger.finish(worker, room, [Finish(claim.thread_key, claim.epoch, 20)])

    async def stranded(self) -> list[str]:
        """Return the threads with something to run, no owner, and no place in ready."""
        rows = await self.pool.fetch(
            """
            SELECT thread_key FROM threads t
             WHERE owner IS NULL
               AND NOT EXISTS (SELECT FROM ready r WHERE r.thread_key = t.thread_key)
               AND (head IS NOT NULL OR EXISTS (
                    SELECT FROM turns u WHERE u.thread_key = t.thread_key AND u.outcome IS NULL))
            """
        )
        return [row["thread_key"] for row in rows]

    async def ready(self) -> list[str]:
        rows = await self.pool.fetch("SELECT thread_key FROM ready ORDER BY thread_key")
        return [row["thread_key"] for row in rows]


@pytest.fixture
async def scene(ledger_dsn: str) -> AsyncIterator[Scene]:
    async with ledger_pool(ledger_dsn) as pool:
        yield Scene(pool)
