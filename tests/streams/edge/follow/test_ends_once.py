"""A turn's end is shown once, although the log may say it twice.

A worker that dies between an end's record and the ledger's note of it leaves the end to others, who
say it again; a frozen one may say late what others have said. The log and the ledger of each case
are made here as workers would leave them, and clients come back between the two.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from following import KEY, Following, cancelled_before_it_came, hello, run, until, what
from websockets.asyncio.client import connect

from turnstream.schemas.fold.fold import TIMELINE_BITS, Verdict
from turnstream.schemas.records import events as ev
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.reader import RUN_TURNS_KEPT


async def said(turn):
    """Say a turn's beginning, and commit that."""
    await turn.start()
    await turn.tokens("one two")
    await turn.worker.pool.execute(
        "UPDATE threads SET head_off = $2 WHERE thread_key = $1", KEY, turn.first_off
    )


@pytest.mark.parametrize("knows", ["before", "after"])
@pytest.mark.parametrize("runs", [True, False], ids=["a turn runs", "nothing runs"])
@pytest.mark.parametrize("beside", [True, False], ids=["beside a new client", "alone"])
async def test_an_unclaimed_end_that_is_said_again(edge, worker, knows, runs, beside):
    """Its first record lies before where the reader of the client that comes back begins."""
    feed = edge.edge.context.feed
    await run(worker, hello)
    worker.closes_ended = False
    ended = await cancelled_before_it_came(worker)
    if runs:
        last = (await run(worker, said)).last_off
    else:
        last = await noise(worker)
    client, other = Following(feed, Cursor(1, last)), Following(feed)
    async with AsyncExitStack() as following:
        if beside:
            await following.enter_async_context(other.reading())
        if knows == "before":
            await following.enter_async_context(client.reading())
        again = await worker.publish_end(ended)
        await worker.close_end(ended, again)
        if knows == "after":
            await following.enter_async_context(client.reading())
        await client.to(again)
    assert what(client.steps) == []
    assert "TurnEnded" not in what(other.steps)


async def noise(worker):
    """Append a record of another thread to the thread's partition."""

    class Other:
        thread_key = "default/noise"
        partition = worker.turns[0].claim.partition

    record = ev.CustomEmitted(
        event_id="x", tenant="default", thread_id="noise", turn_id="x", epoch=1, n=1,
        name="n", payload='"x"',
    )  # fmt: skip
    return await worker.append(Other, record)


async def test_an_unclaimed_end_that_nobody_has_said_yet_is_shown(edge, worker):
    """It is open when the client comes, and its only record comes then."""
    feed = edge.edge.context.feed
    await run(worker, hello)
    worker.closes_ended = False

    async def dies(_ended):
        return -1

    publish, worker.publish_end = worker.publish_end, dies
    ended = await cancelled_before_it_came(worker)
    client = Following(feed, Cursor(1, worker.turns[-1].last_off))
    async with client.reading():
        await client.to(await publish(ended))
    assert what(client.steps) == ["TurnEnded"]


async def test_an_unclaimed_end_that_a_stalled_worker_says_late(edge, worker):
    """Another has said it and closed the turn; then the first one's record lands."""
    feed = edge.edge.context.feed
    await run(worker, hello)
    ended = await cancelled_before_it_came(worker)
    last = (await run(worker, said)).last_off
    client = Following(feed, Cursor(1, last))
    async with client.reading():
        await client.to(await worker.publish_end(ended))
    assert what(client.steps) == []


async def test_an_unclaimed_end_of_a_thread_that_nobody_claimed(edge, worker):
    feed = edge.edge.context.feed
    ended = await cancelled_before_it_came(worker)
    offset = await worker.publish_end(ended)
    client = Following(feed, Cursor(1, offset))
    async with client.reading():
        await client.to(await worker.publish_end(ended))
    assert what(client.steps) == []


async def test_an_unclaimed_end_that_is_said_again_after_the_edge_lost_the_log(edge, worker):
    """All who follow have got it; then another reader takes over where they are."""
    feed = edge.edge.context.feed
    await run(worker, hello)
    clients = [Following(feed), Following(feed)]
    async with clients[0].reading(), clients[1].reading():
        worker.closes_ended = False
        ended = await cancelled_before_it_came(worker)
        last = (await run(worker, said)).last_off
        for client in clients:
            await client.to(last)
        for thread in tuple(feed.threads.values()):
            thread.missing(ended.partition)
        again = await worker.publish_end(ended)
        await worker.close_end(ended, again)
        for client in clients:
            await client.to(again)
    for client in clients:
        assert what(client.steps).count("TurnEnded") == 1


async def test_an_end_that_the_reader_has_forgotten(edge, worker):
    """More turns have ended since than the fold keeps."""
    feed = edge.edge.context.feed
    await run(worker, hello)
    client = Following(feed)
    async with client.reading():
        worker.closes_ended = False
        ended = await cancelled_before_it_came(worker)
        for _ in range(RUN_TURNS_KEPT + 1):
            turn = await run(worker)
        await client.to(turn.last_off)
        before = len(client.steps)
        again = await worker.publish_end(ended)
        await worker.close_end(ended, again)
        await client.to(again)
        assert what(client.steps).count("TurnEnded") == 1
        assert what(client.steps[before:]) == []


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
async def test_an_outcome_that_is_said_again_by_the_next_owner(edge, worker, closed):
    """The first attempt had nothing to commit: its turn was refused when it was claimed."""
    feed = edge.edge.context.feed
    await run(worker, hello)

    async def refused(turn):
        await turn.worker.pool.execute(
            "UPDATE turns SET outcome = $2 WHERE turn_id = $1",
            turn.claim.turn_id,
            json.dumps({"status": "failed", "code": "expired"}),
        )
        await turn.start()
        await turn.say(ev.TurnFailed, code="expired")

    turn = await run(worker, refused)
    end = turn.last_off
    turn.first_off = None
    await turn.again()
    await turn.say(ev.TurnFailed, code="expired")
    if closed:
        await worker.finish(turn)
    client = Following(feed, Cursor(1, end))
    async with client.reading():
        await client.to(turn.last_off)
    assert what(client.steps) == []


async def test_an_end_that_is_said_again_after_a_fail_over(edge, worker):
    """It was in the log and the turn not closed when the standby took over: nothing was lost."""
    feed = edge.edge.context.feed
    client = Following(feed)
    async with client.reading():
        turn = await run(worker, hello)
        await client.to(turn.last_off)
        shown, decided_by, said = what(client.steps), turn.epoch, turn.n - 1
        assert shown[-1] == "TurnCompleted"
        await worker.pool.execute("SELECT raise_timeline()")
        turn.epoch = ((turn.epoch >> TIMELINE_BITS) + 1) << TIMELINE_BITS
        await turn.again(reason="decided", base=decided_by, keep_n=said, high_n=said)
        await turn.say(ev.TurnCompleted)
        await client.to(turn.last_off)
        assert what(client.steps) == shown


async def test_what_an_attempt_said_that_committed_nothing_is_taken_back(edge, worker):
    """The next one begins right behind the client's cursor, and the ledger knows of no earlier."""
    feed = edge.edge.context.feed
    await run(worker, hello)

    async def dies(turn):
        await turn.start()
        await turn.tokens("one two")

    turn = await run(worker, dies)
    cursor = Cursor(1, turn.last_off)
    turn.first_off = None
    await turn.again()
    await worker.pool.execute(
        "UPDATE threads SET head_off = $2 WHERE thread_key = $1", KEY, turn.first_off
    )
    client = Following(feed, cursor)
    async with client.reading():
        await client.to(turn.last_off)
    (step,) = client.steps
    assert step.change.verdict is Verdict.REWOUND


@pytest.mark.parametrize("kind", ["end", "start", "token"])
@pytest.mark.parametrize("late", ["before", "after"])
@pytest.mark.parametrize("returns", [True, False], ids=["with a cursor", "without"])
async def test_what_a_frozen_worker_says_after_the_end(edge, worker, kind, late, returns):
    """Its turn was ended by another, and no turn runs."""
    feed = edge.edge.context.feed
    frozen = await run(worker, lambda turn: turn.start())
    before = frozen.epoch
    await frozen.again()
    await frozen.end(text="")
    client = Following(feed, Cursor(1, frozen.last_off) if returns else None)

    async def thaws():
        frozen.epoch = before
        frozen.n = 0
        if kind == "start":
            await frozen.start()
        elif kind == "token":
            await frozen.tokens("late", "old")
        else:
            await frozen.say(ev.TurnCompleted, text="")
        return frozen.last_off

    if late == "before":
        await thaws()
    async with client.reading():
        await client.to(await thaws() if late == "after" else frozen.last_off)
    assert what(client.steps) == []


@asynccontextmanager
async def opened(surface, edge, cursor):
    """Open a surface with a cursor; yields its events as text."""
    if surface in ("ws", "protocol-ws"):
        plain = surface == "ws"
        async with connect(f"{edge.ws}{'/ws' if plain else '/threads/a/stream/events'}") as socket:
            ask = {"channels": ["lifecycle"], "since": cursor}
            await socket.send(
                json.dumps(
                    {"type": "subscribe", "thread_id": "a", "since": cursor}
                    if plain
                    else {"id": 1, "method": "subscription.subscribe", "params": ask}
                )
            )
            yield socket
        return
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        if surface == "sse":
            given = {"thread_id": "a", "since": cursor}
            call = client.stream("GET", "/chat/stream", params=given)
        else:
            body = {"channels": ["lifecycle"], "since": cursor}
            call = client.stream("POST", "/threads/a/stream/events", json=body)
        async with call as response:
            yield response.aiter_lines()


WORDS = ("started", "running", "failed")


@pytest.mark.parametrize("surface", ["ws", "sse", "protocol-ws", "protocol-sse"])
async def test_no_surface_shows_it_again(edge, worker, surface):
    """A client that has it all comes back; the first that it is shown is of the turn after."""
    await run(worker, hello)
    worker.closes_ended = False
    ended = await cancelled_before_it_came(worker)
    last = await noise(worker)
    feed = edge.edge.context.feed
    text = ""
    async with asyncio.timeout(60), opened(surface, edge, Cursor(1, last).seq) as lines:
        await until(lambda: any(thread.taps for thread in feed.threads.values()))
        again = await worker.publish_end(ended)
        await worker.close_end(ended, again)
        running = await run(worker, hello)
        async for line in lines:
            text += line
            if '"success"' not in line and any(word in line for word in WORDS):
                break
    assert str(ended.turn_id) not in text
    assert "failed" not in text
    if surface == "ws":
        assert running.turn_id in text
