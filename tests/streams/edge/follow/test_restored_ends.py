"""The database is put back, and an unclaimed end comes again before the turns that stood before it.

It is said when its turn is admitted; those run one after the other.
"""

from __future__ import annotations

import asyncio

import pytest
from following import Following, cancelled_before_it_came, hello, run, until, what

from turnstream.schemas.fold.fold import Verdict
from turnstream.schemas.records import events as ev
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.places import Reset
from turnstream.streams.edge.follow.reader import RUN_TURNS_KEPT, Step

KNOWN, FORGOTTEN = RUN_TURNS_KEPT - 1, RUN_TURNS_KEPT + 2


def shown_twice(items):
    """Return the turns that begin again without a word that what they said before is void."""
    shown, twice = set(), []
    for item in items:
        if isinstance(item, Reset):
            shown.clear()
        elif isinstance(item, Step) and isinstance(item.record, ev.AttemptStarted):
            if item.record.turn_id in shown and item.change.verdict is not Verdict.REWOUND:
                twice.append(item.record.turn_id)
            shown.add(item.record.turn_id)
    return twice


def completed(items):
    return what(item for item in items if isinstance(item, Reset | Step)).count("TurnCompleted")


class Halted:
    """Turns that begin once they may."""

    def __init__(self):
        self.go_on = asyncio.Event()

    async def __call__(self, turn):
        await self.go_on.wait()
        await hello(turn)


async def put_back_to_before(worker, client, turns):
    """Run turns and let one end unclaimed, put the database back; returns what halts them now."""
    for _ in range(turns):
        await run(worker, hello)
    await cancelled_before_it_came(worker)
    await until(lambda: what(client.steps).count("TurnEnded") == 1)
    worker.script = halted = Halted()
    count = len(worker.ended)
    await worker.put_back()
    await until(lambda: len(worker.ended) > count)
    return halted


@pytest.mark.parametrize("turns", [KNOWN, FORGOTTEN], ids=["known", "forgotten"])
async def test_turns_behind_an_end_that_comes_again(edge, worker, turns):
    client = Following(edge.edge.context.feed)
    async with client.reading():
        halted = await put_back_to_before(worker, client, turns)
        halted.go_on.set()
        await until(lambda: completed(client.items) >= 2 * turns)
    assert shown_twice(client.items) == []
    resets = sum(isinstance(item, Reset) for item in client.items)
    assert resets == (turns == FORGOTTEN)


@pytest.mark.parametrize("turns", [KNOWN, FORGOTTEN], ids=["known", "forgotten"])
@pytest.mark.parametrize("late", [True, False], ids=["after them", "before them"])
async def test_a_cursor_at_an_end_that_came_again(edge, worker, turns, late):
    """The client comes back before the turns begin again, or when all are over."""
    feed = edge.edge.context.feed
    client = Following(feed)
    async with client.reading():
        halted = await put_back_to_before(worker, client, turns)
        await until(lambda: len(worker.ends_at) == 2)
        await client.to(worker.ends_at[-1])
        assert what(client.steps).count("TurnEnded") == 1, "it knows of this end"
    if late:
        halted.go_on.set()
        await until(lambda: len(worker.turns) == 2 * turns)
        await worker.idle()
    again = Following(feed, Cursor(1, worker.ends_at[-1]))
    async with again.reading():
        halted.go_on.set()
        await until(lambda: completed(again.items) >= turns)
    assert shown_twice([*client.items, *again.items]) == []
