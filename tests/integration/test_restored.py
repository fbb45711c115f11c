"""The ledger is back at an earlier point: what it lost is taken in again, and ends for readers.

A restore is played by hand: rows go, the intake's position goes back, the timeline rises. The
campaign restores a whole server (`restore-postgres`); here each sign of it stands alone.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from turnstream.schemas.events import TurnEnded
from turnstream.schemas.transcript import transcript

SIGNS = {
    "reconnect": """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'turnstream-listener'
    """,
    "timeline": "SELECT raise_timeline()",
}


async def go_back(scene: Any) -> None:
    """Let the ledger be what it was before anything was admitted."""
    async with scene.db.transaction():
        for table in ("turns", "ready", "threads", "checkpoints"):
            await scene.db.execute(f"DELETE FROM {table}")
        await scene.db.execute("UPDATE intake SET next_off = 0")


@pytest.mark.parametrize("sign", SIGNS)
async def test_the_intake_goes_back_with_the_ledger_without_a_new_command(scene, sign: str) -> None:
    async with scene.worker():
        turn = await scene.start("t1", "tokens=1")
        await scene.done("t1", turn)
        await scene.closed(turn)
        await go_back(scene)
        assert await scene.db.fetchval(SIGNS[sign])
        await scene.closed(turn)


async def test_an_unclaimed_end_ends_what_a_lost_timeline_had_begun(scene) -> None:
    """Readers saw it run; after the restore a cancel comes before it."""
    async with scene.worker():
        turn = await scene.start("t1", "tokens=1000 rate=50")
        await scene.until(lambda: (v := scene.view("t1", turn)) and len(v.items) > 4)
        async with scene.db.transaction():
            await go_back(scene)
            await scene.db.execute(
                "INSERT INTO early_cancels (tenant, turn_id, thread_key) VALUES ($1, $2, $3)",
                "default", uuid.UUID(turn), "default/t1",
            )  # fmt: skip
            await scene.db.execute(SIGNS["timeline"])
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnEnded)
        assert view.terminal.outcome == "cancelled"
        assert transcript(view).entries == []
        await scene.closed(turn)
