"""A turn's end: first the ledger has it, then the log, then the turn is closed (W7 to W9, A5).

In every other order a crash in between leaves readers with an end that the ledger does not hold, or
with none. Here the ledger or the log refuses in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any

from aiokafka.errors import MessageSizeTooLargeError

from tests.chaos.parts.topic_faults import RefuseRecords
from turnstream.schemas.records.events import InputResolved, TurnCancelled, TurnCompleted, TurnEnded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WAITS = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def ends_of(scene: Any, turn: str) -> list[Any]:
    return [r for _, _, r in scene.log if r.turn_id == turn and r.terminal]


@contextlib.asynccontextmanager
async def before_the_outcome(scene: Any, change: str) -> AsyncIterator[str]:
    """Give a turn that has run, and whose outcome waits for this change of its thread's row.

    Its first checkpoint is committed before: then nothing but the outcome can wait for the row.
    """
    turn = await scene.start("t1", "tokens=60 rate=30")
    await scene.until(lambda: (v := scene.view("t1", turn)) and len(v.items) > 4)
    async with asyncio.timeout(60):
        while not await scene.db.fetchval("SELECT count(*) FROM checkpoints"):
            await asyncio.sleep(0.01)
    async with scene.db.transaction():
        await scene.db.execute(f"UPDATE threads SET {change} WHERE thread_key = 'default/t1'")
        async with asyncio.timeout(60):
            while not await scene.db.fetchval(WAITS):
                await asyncio.sleep(0.01)
        yield turn


@contextlib.asynccontextmanager
async def refusing(scene: Any) -> AsyncIterator[None]:
    """Let the log refuse every record; results and commands come through."""
    fault = RefuseRecords()
    probe = InputResolved(
        event_id="", tenant="default", thread_id="probe", turn_id=str(uuid.uuid4()), epoch=0, n=0,
        interrupt_id="i", rev=1,
    )  # fmt: skip
    await fault.strike(scene)
    try:
        with contextlib.suppress(MessageSizeTooLargeError):
            async with asyncio.timeout(60):
                while True:
                    await scene.send(
                        scene.codec.encode(probe), key=b"default/probe", topic=scene.topics.events
                    )
        yield
    finally:
        await fault.heal(scene)


async def test_the_log_says_the_end_that_the_ledger_took(scene) -> None:
    """It was to be `completed`, and the ledger, which knows of a rollback, would not have it."""
    async with scene.worker():
        async with before_the_outcome(scene, "cancel = 'rollback'") as turn:
            pass
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCancelled)
        row = await scene.closed(turn)
        assert json.loads(row["outcome"])["status"] == "cancelled"
    assert len(ends_of(scene, turn)) == 1


async def test_a_turn_is_not_closed_before_its_terminal_is_in_the_log(scene) -> None:
    async with scene.worker(), contextlib.AsyncExitStack() as refusal:
        async with before_the_outcome(scene, "owner = owner") as turn:
            await refusal.enter_async_context(refusing(scene))
        # the terminal is refused: another attempt begins, or, if nobody cared, the turn is closed
        async with asyncio.timeout(60):
            while not await scene.db.fetchval(
                "SELECT epoch & 255 > 1 OR closed_at IS NOT NULL"
                " FROM threads JOIN turns USING (thread_key)"
            ):
                await asyncio.sleep(0.01)
        await refusal.aclose()
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)
        assert view.gaps == 0
        await scene.closed(turn)
    assert len(ends_of(scene, turn)) == 1


async def test_an_end_that_the_ledger_has_is_only_published(scene) -> None:
    """W3: the next attempt finds a cancel beside the outcome. The cancel came too late."""
    async with scene.worker(), contextlib.AsyncExitStack() as refusal:
        async with before_the_outcome(scene, "cancel = 'cancel'") as turn:
            await refusal.enter_async_context(refusing(scene))
        async with asyncio.timeout(60):
            while not await scene.db.fetchval("SELECT epoch & 255 > 1 FROM threads"):
                await asyncio.sleep(0.01)
        requests = len(scene.model.requests)
        await refusal.aclose()
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)
        row = await scene.closed(turn)
        assert json.loads(row["outcome"])["status"] == "completed"
        assert len(scene.model.requests) == requests
    assert len(ends_of(scene, turn)) == 1


async def test_an_unclaimed_end_is_not_closed_before_it_is_in_the_log(scene) -> None:
    async with scene.worker():
        async with refusing(scene):
            turn = await scene.start("t1", "x", graph="nobody")
            await scene.until(lambda: [r for r in scene.results if r.turn_id == turn])
        await scene.db.execute("UPDATE ended SET at = now()")  # the decider's time is over
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnEnded)
        assert view.terminal.code == "unknown_graph"
        row = await scene.closed(turn)
    (offset,) = [offset for _, offset, r in scene.log if r.turn_id == turn]
    assert row["first_off"] == offset
    assert all(result == scene.results[0] for result in scene.results)
