"""The ledger is back at an earlier point: what it lost is taken in again, and ends for readers.

A restore is played by hand: rows go, the intake's position goes back, the timeline rises. The
campaign restores a whole server (`restore-postgres`); here each sign of it stands alone.
"""

from __future__ import annotations

import uuid
from typing import Any

from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import TurnEnded

CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'turnstream-listener'
"""


async def go_back(scene: Any) -> None:
    """Let the ledger be what it was before anything was admitted."""
    for table in ("turns", "ready", "threads", "checkpoints"):
        await scene.db.execute(f"DELETE FROM {table}")
    await scene.db.execute("UPDATE intake SET next_off = 0")


async def test_the_intake_seeks_when_its_connection_was_replaced(scene) -> None:
    async with scene.worker():
        turn = await scene.start("t1", "tokens=1")
        await scene.done("t1", turn)
        await scene.closed(turn)
        async with scene.db.transaction():
            await go_back(scene)
        assert await scene.db.fetchval(CUT)
        await scene.closed(turn)  # again, with no new command


async def test_a_new_timeline_is_seen_and_what_ends_in_it_ends_for_readers(
    scene,
) -> None:
    """Readers saw both turns run; after the restore one's cancel comes before it."""
    async with scene.worker():
        again = await scene.start("t1", "tokens=1")
        await scene.done("t1", again)
        await scene.closed(again)
        ends = await scene.start("t2", "tokens=1000 rate=50")
        await scene.until(lambda: (v := scene.view("t2", ends)) and len(v.items) > 4)
        async with scene.db.transaction():
            await go_back(scene)
            await scene.db.execute(
                "INSERT INTO early_cancels (tenant, turn_id, thread_key) VALUES ($1, $2, $3)",
                "default", uuid.UUID(ends), "default/t2",
            )  # fmt: skip
            await scene.db.execute("SELECT raise_timeline()")
        await scene.closed(again)  # with no new command
        view = await scene.done("t2", ends)
        assert isinstance(view.terminal, TurnEnded)
        assert view.terminal.outcome == "cancelled"
        assert transcript(view).entries == []
        await scene.closed(ends)
