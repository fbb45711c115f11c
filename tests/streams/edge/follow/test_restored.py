"""The database is put back to before turns that clients have seen end: they run again.

Readers take back what they know of; where they do not know it any more, they say `reset`.
"""

from __future__ import annotations

import asyncio

import httpx
import pytest

from turnstream.schemas.fold.fold import Verdict
from turnstream.schemas.records import events as ev
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.places import Begins, Reset
from turnstream.streams.edge.follow.reader import RUN_TURNS_KEPT

MANY = RUN_TURNS_KEPT + 2


async def run_turns(edge, worker, count):
    """Run that many turns of the thread to their ends."""
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        for number in range(count):
            body = {"id": number, "method": "run.start"}
            params = {"assistant_id": "agent", "input": {}}
            answer = await client.post("/threads/a/commands", json=body | {"params": params})
            assert answer.status_code == 200, answer.text
            async with asyncio.timeout(60):
                while len(worker.turns) <= number:
                    await asyncio.sleep(0.01)
            await worker.idle()


async def until_ends(reading, count):
    """Return what a watch gives up to the end of that many turns."""
    got, ends = [], 0
    async with asyncio.timeout(60):
        async for item in reading:
            got.append(item)
            ends += not isinstance(item, Reset | Begins) and isinstance(
                item.record, ev.TurnCompleted
            )
            if ends == count:
                return got
    raise AssertionError(got)


def turns_of(items):
    return [item.record.turn_id for item in items if isinstance(item.record, ev.AttemptStarted)]


async def test_turns_that_a_reader_has_forgotten_are_a_reset(edge, worker):
    feed = edge.edge.context.feed
    async with feed.watch("default/a") as watch:
        reading = aiter(watch)
        assert isinstance(await anext(reading), Begins)
        await run_turns(edge, worker, MANY)
        before = await until_ends(reading, MANY)
        await worker.put_back()
        reset, *again = await until_ends(reading, MANY)
    assert isinstance(reset, Reset)
    assert reset.alive
    assert reset.cursor.offset == again[0].offset - 1
    assert turns_of(again) == turns_of(before)
    assert {
        step.change.verdict for step in again if isinstance(step.record, ev.AttemptStarted)
    } == {Verdict.STARTED}, "a new reader knows nothing to take back"


async def test_turns_that_a_reader_knows_are_taken_back(edge, worker):
    feed = edge.edge.context.feed
    async with feed.watch("default/a") as watch:
        reading = aiter(watch)
        assert isinstance(await anext(reading), Begins)
        await run_turns(edge, worker, 2)
        before = await until_ends(reading, 2)
        await worker.put_back()
        again = await until_ends(reading, 2)
        begun = [step for step in again if isinstance(step.record, ev.AttemptStarted)]
        assert turns_of(again) == turns_of(before)
        assert [step.change.verdict for step in begun] == [Verdict.REWOUND] * 2
        # a turn that is new in this timeline voids nothing
        await worker.idle()
        count = len(worker.turns)
        await run_turns(edge, worker, 1)
        async with asyncio.timeout(60):
            while len(worker.turns) == count:
                await asyncio.sleep(0.01)
        assert not any(isinstance(item, Reset) for item in await until_ends(reading, 1))


@pytest.mark.parametrize("turns", [1, MANY])
async def test_who_was_away_is_told_what_is_void(edge, worker, turns):
    """Its cursor is at an end that is undone: by a reset, or by a rewind of what it has."""
    feed = edge.edge.context.feed
    await run_turns(edge, worker, turns)
    async with feed.watch("default/a", Cursor(1, -1)) as watch:
        *_, end = await until_ends(aiter(watch), turns)
    async with feed.watch("default/a", Cursor(1, end.offset)) as watch:
        reading = aiter(watch)
        await worker.put_back()
        told(await until_ends(reading, turns), turns)
    await worker.idle()
    async with feed.watch("default/a", Cursor(1, end.offset)) as watch:
        told(await until_ends(aiter(watch), turns), turns)  # when all have ended again, too


def told(items, turns):
    first, *rest = items
    if isinstance(first, Reset):
        assert len(turns_of(rest)) == turns
    else:
        assert turns == 1, "more than a reader keeps"
        assert first.change.verdict is Verdict.REWOUND
        assert any(isinstance(item, ev.TokensEmitted) for item in first.change.dropped)


async def test_a_cursor_of_this_timeline_is_good(edge, worker):
    feed = edge.edge.context.feed
    await run_turns(edge, worker, 1)
    await worker.put_back()
    async with asyncio.timeout(60):
        while len(worker.turns) < 2:
            await asyncio.sleep(0.01)
    await worker.idle()
    async with feed.watch("default/a", Cursor(1, -1)) as watch:
        *_, end = await until_ends(aiter(watch), 2)
    await run_turns(edge, worker, 3)
    async with feed.watch("default/a", Cursor(1, end.offset)) as watch:
        steps = await until_ends(aiter(watch), 1)
    assert not any(isinstance(step, Reset) for step in steps)
