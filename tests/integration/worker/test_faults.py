"""What a worker does when the database blinks, its lease is taken, or its input is gone."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from turnstream.schemas.errors import InputLostError
from turnstream.schemas.records.events import (
    AttemptStarted,
    TokensEmitted,
    TurnCancelled,
    TurnCompleted,
)
from turnstream.streams.app.worker import open_worker

CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE $1
"""


def tokens_of(scene, thread: str, turn: str) -> int:
    view = scene.view(thread, turn)
    return sum(isinstance(item, TokensEmitted) for item in view.items) if view else 0


async def test_cut_database_connections_rewind_nobody(scene) -> None:
    async with scene.worker():
        turn = await scene.start("t1", "tokens=100 rate=50")
        await scene.until(lambda: tokens_of(scene, "t1", turn) > 10)
        assert await scene.db.fetchval(CUT, "turnstream-%") >= 3
        during = await scene.start("t2", "tokens=3")
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)
        assert view.attempts == 1
        assert isinstance((await scene.done("t2", during)).terminal, TurnCompleted)
        for each in (turn, during):
            await scene.closed(each)


async def test_connections_cut_again_and_again_lose_and_strand_nothing(scene) -> None:
    async with scene.worker():
        turns = []
        for i in range(60):
            turns.append((f"t{i % 12}", await scene.start(f"t{i % 12}", "tokens=2")))
            if i % 10 == 5:
                await scene.db.execute(CUT, "turnstream-%")
        for thread, turn in turns:
            view = await scene.done(thread, turn)
            assert isinstance(view.terminal, TurnCompleted)
            assert view.gaps == 0
            await scene.closed(turn)
        await scene.until(lambda: len({r.turn_id for r in scene.results}) == len(turns))
        assert await scene.db.fetchval("SELECT count(*) FROM turns") == len(turns)
        async with asyncio.timeout(60):
            owned = "SELECT count(*) FROM threads WHERE owner IS NOT NULL"
            while await scene.db.fetchval(owned):
                await asyncio.sleep(0.05)


async def test_a_lease_that_was_taken_ends_the_attempts_and_a_new_life_goes_on(scene) -> None:
    async with scene.worker() as worker:
        turn = await scene.start("t1", "tokens=100 rate=50")
        await scene.until(lambda: tokens_of(scene, "t1", turn) > 5)
        before = worker.roster.worker
        await scene.db.execute("SELECT dismiss_worker($1)", before)
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)
        assert view.attempts == 2
        assert worker.roster.worker != before
        assert view.gaps == 0
        await scene.closed(turn)


async def test_a_cancel_whose_wake_up_was_lost_is_found(scene) -> None:
    async with scene.worker():
        turn = await scene.start("t1", "tokens=1000 rate=50")
        await scene.until(lambda: tokens_of(scene, "t1", turn) > 5)
        await scene.db.execute(
            "UPDATE threads SET cancel = 'cancel' WHERE thread_key = $1", "default/t1"
        )
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCancelled)


async def test_threads_claimed_in_silence_are_found_and_run(scene) -> None:
    """As after a claim whose answer was lost: the ledger says ours, and nobody here knows."""
    async with scene.worker() as worker:
        first = await scene.start("t1", "tokens=2")
        await scene.done("t1", first)
        await scene.closed(first)
        worker.roster.slots.close()
        turn = await scene.start("t1", "tokens=3")
        async with asyncio.timeout(60):
            waiting = "SELECT count(*) FROM ready"
            while not await scene.db.fetchval(waiting):
                await asyncio.sleep(0.02)
        assert await worker.roster._ledger.reclaim(worker.roster.worker, 1)
        assert scene.view("t1", turn) is None
        worker.roster.slots._closed = False
        worker.roster.slots.doubt()
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)


async def test_a_position_that_the_log_does_not_have_stops_the_intake_loudly(scene) -> None:
    async with scene.worker():
        turn = await scene.start("t1", "tokens=1")
        await scene.done("t1", turn)
    await scene.db.execute("UPDATE intake SET next_off = 4711 WHERE next_off > 0")
    async with open_worker(scene.settings) as worker:
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(worker.run(), 60)
    (lost,) = caught.value.subgroup(InputLostError).exceptions
    assert "turns.default" in str(lost)


async def test_a_restored_position_takes_the_same_commands_once_more_and_runs_them_once(
    scene,
) -> None:
    async with scene.worker():
        turns = [await scene.start("t1", "tokens=1") for _ in range(3)]
        for turn in turns:
            await scene.done("t1", turn)
            await scene.closed(turn)
        await scene.db.execute("UPDATE intake SET next_off = 0")
        # the next command's batch begins where the ledger does not stand: it seeks, and starts over
        last = await scene.start("t1", "tokens=2")
        await scene.done("t1", last)
    starts = [r.turn_id for _, _, r in scene.log if isinstance(r, AttemptStarted)]
    assert sorted(starts) == sorted([*turns, last])
    assert await scene.db.fetchval("SELECT count(*) FROM turns") == 4


async def test_the_intake_pauses_on_the_ledgers_open_total(scene) -> None:
    async with scene.worker(open_turns_max=3) as worker:
        slow = [await scene.start(f"slow-{i}", "tokens=100000 rate=30") for i in range(3)]
        await scene.until(lambda: worker._intake._inbox.paused)
        late = await scene.start("late", "tokens=1")
        await scene.db.execute("UPDATE threads SET cancel = 'cancel'")
        for i, turn in enumerate(slow):
            await scene.done(f"slow-{i}", turn)
        assert isinstance((await scene.done("late", late)).terminal, TurnCompleted)
        await scene.until(lambda: not worker._intake._inbox.paused)


async def test_the_intake_takes_in_what_there_is_room_for(scene) -> None:
    turns = [await scene.start(f"t-{i}", "tokens=5 rate=10") for i in range(8)]
    async with scene.worker(open_turns_max=3) as worker:
        await scene.until(lambda: worker._intake._inbox.paused)
        assert await scene.db.fetchval("SELECT count(*) FROM turns") == 3
        for i, turn in enumerate(turns):
            assert isinstance((await scene.done(f"t-{i}", turn)).terminal, TurnCompleted)


async def test_ends_that_nobody_published_are_swept(scene) -> None:
    """The decider died between its transaction and the record."""
    turn = await scene.start("t1", "x", graph="nobody")
    async with scene.worker() as worker:
        worker.roster._unclaimed._publishing = 10_000  # it has its hands full
        async with asyncio.timeout(60):
            known = "SELECT count(*) FROM turns WHERE turn_id = $1"
            while not await scene.db.fetchval(known, uuid.UUID(turn)):
                await asyncio.sleep(0.02)
        assert scene.view("t1", turn) is None
        worker.roster._unclaimed._publishing = 0
        view = await scene.done("t1", turn)
        assert view.terminal.code == "unknown_graph"
        await scene.closed(turn)
