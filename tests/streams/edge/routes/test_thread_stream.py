"""The Agent Streaming Protocol over HTTP: commands and server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from urllib.parse import quote

import httpx
import pytest

from turnstream.streams.app.edge import open_edge
from turnstream.streams.edge.ask.own_turns import LINGER_S
from turnstream.streams.edge.deliver.frames import OPENED
from turnstream.streams.edge.follow.cursor import Cursor


@asynccontextmanager
async def sse(client, thread, **body):
    body.setdefault("channels", ["lifecycle", "messages", "input", "tools", "values"])
    async with client.stream("POST", f"/threads/{thread}/stream/events", json=body) as response:
        response.raise_for_status()
        lines = response.aiter_lines()

        async def events():
            async for line in lines:
                if line.startswith("data: "):
                    yield json.loads(line[6:])

        yield events()


async def until(events, method="lifecycle", event=("completed", "failed")):
    got = []
    async with asyncio.timeout(60):
        async for item in events:
            if item["method"] == OPENED:
                continue
            got.append(item)
            data = item["params"]["data"]
            root = not item["params"]["namespace"]
            if root and item["method"] == method and data.get("event") in event:
                return got
    raise AssertionError(got)


@pytest.fixture
async def client(edge):
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        yield client


async def run_start(client, thread, **params):
    command = {"id": 1, "method": "run.start", "params": {"assistant_id": "agent"} | params}
    response = await client.post(f"/threads/{thread}/commands", json=command)
    assert response.status_code == 200, response.text
    return response.json()


def text_of(events):
    return "".join(
        item["params"]["data"]["delta"]["text"]
        for item in events
        if item["method"] == "messages" and item["params"]["data"]["event"] == "content-block-delta"
    )


async def test_a_turn_streams_from_its_start(client, worker):
    answer = await run_start(client, "a", input={"messages": [{"role": "user", "content": "hi"}]})
    assert answer["type"] == "success"
    assert answer["result"]["run_id"] == worker.commands[0].turn_id
    async with sse(client, "a", since=answer["meta"]["applied_through_seq"]) as events:
        got = await until(events)
    assert text_of(got) == "hello world "
    assert [e["params"]["data"]["event"] for e in got if e["method"] == "lifecycle"] == [
        "running",
        "completed",
    ]
    seqs = [e["seq"] for e in got]
    assert seqs == sorted(seqs)
    assert len({e["event_id"] for e in got}) == len(got)


@pytest.mark.parametrize("thread", ["a", 'a "b" \\ c'], ids=["plain", "odd"])
async def test_a_stream_that_is_cut_before_its_first_event_has_a_cursor(client, worker, thread):
    (await client.post("/threads", json={"thread_id": thread})).raise_for_status()
    place = quote(thread)
    async with sse(client, place, channels=["lifecycle"]) as events, asyncio.timeout(60):
        opened = await anext(events)
    assert opened["method"] == OPENED
    answer = await run_start(client, place)
    async with sse(client, place, since=opened["seq"]) as events:
        got = await until(events)
    assert text_of(got) == "hello world "
    assert got[0]["seq"] > answer["meta"]["applied_through_seq"] >= opened["seq"]
    foreign = Cursor(100, 3).seq
    async with sse(client, place, since=foreign) as events, asyncio.timeout(60):
        assert (await anext(events))["event_id"].startswith("reset-")


async def test_every_message_event_names_its_message(client, worker):
    answer = await run_start(client, "a")
    async with sse(client, "a", since=answer["meta"]["applied_through_seq"]) as events:
        got = await until(events)
    said = [e["params"]["data"] for e in got if e["method"] == "messages"]
    assert said
    assert {data["id"] for data in said} == {"m1"}
    assert [data["event"] for data in said] == [
        "message-start",
        "content-block-start",
        "content-block-delta",
        "content-block-delta",
        "content-block-finish",
        "message-finish",
    ]


async def test_a_replay_is_the_same_from_every_cursor(client, worker, edge):
    answer = await run_start(client, "a")
    since = answer["meta"]["applied_through_seq"]
    async with sse(client, "a", since=since) as events:
        whole = await until(events)
    for at, item in enumerate(whole[:-1]):
        async with sse(client, "a", since=item["seq"]) as events:
            assert await until(events) == whole[at + 1 :]


async def test_streams_that_come_while_the_edge_starts_wait_for_it(edge, client, worker, settings):
    """Clients of an edge that went come to the next one before it has read anything."""
    answer = await run_start(client, "a")
    since = answer["meta"]["applied_through_seq"]
    async with sse(client, "a", since=since) as events:
        whole = await until(events)
    opened = open_edge(settings, state=edge.states)
    async with opened as edge, asyncio.TaskGroup() as parts:
        parts.create_task(edge.server.run())
        base = f"http://127.0.0.1:{edge.port}"
        try:
            async with (
                httpx.AsyncClient(base_url=base, timeout=60) as newcomer,
                sse(newcomer, "a", since=since) as replayed,
                sse(newcomer, "a", since=whole[2]["seq"]) as resumed,
                sse(newcomer, "a") as bare,
            ):
                assert len(edge.context.sockets.outlets) == 3
                tail = parts.create_task(edge.tail.run())
                assert await until(replayed) == whole
                assert await until(resumed) == whole[3:]
                surfaces = edge.context.feed.threads["default/a"].surfaces
                async with asyncio.timeout(60):
                    while sum(len(shared.taps) for shared in surfaces.values()) < 3:
                        await asyncio.sleep(0.01)
                await run_start(client, "a")
                assert text_of(await until(bare)) == "hello world "
                tail.cancel()
        finally:
            edge.stop()
    assert edge.context.feed.resets == 0


async def test_a_stream_without_a_cursor_shows_no_older_end(client, worker):
    await run_start(client, "a")
    held = asyncio.Event()

    async def wait(turn):
        await turn.start()
        await turn.tokens("one two")
        await held.wait()
        await turn.end()

    async with sse(client, "a") as events:
        first = await until(events)
    worker.script = wait
    answer = await run_start(client, "a")
    assert answer["type"] == "success"
    async with sse(client, "a") as events:
        _opened, *head = [await anext(events) for _ in range(6)]
        assert head[0]["params"]["data"] == {"event": "running", "graph_name": "agent"}
        assert head[0]["event_id"].startswith(f"synth:{answer['result']['run_id']}:")
        held.set()
        rest = await until(events)
    assert {e["event_id"] for e in first}.isdisjoint(e["event_id"] for e in head + rest)


async def test_an_end_waits_for_streams_that_are_yet_to_be_opened(client, worker):
    """The JavaScript SDK opens a stream for each projection, and leaves off at the first end."""
    await run_start(client, "a")
    await worker.idle()
    asked = time.monotonic()
    async with sse(client, "a", channels=["lifecycle"]) as narrow:
        async with sse(client, "a", channels=["lifecycle", "messages"]) as wide:
            assert text_of(await until(wide)) == "hello world "
        got = await until(narrow)
        assert time.monotonic() - asked >= LINGER_S
    assert [item["params"]["data"]["event"] for item in got] == ["running", "completed"]
    assert got[-1]["event_id"].startswith(f"synth:{worker.turns[0].turn_id}:")


WATCHER = ["lifecycle", "input"]


class SlowPlaces:
    """Places whose answers wait until they may come."""

    def __init__(self, places):
        self.places = places
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    async def place(self, key):
        self.asked.set()
        await self.may.wait()
        return await self.places.place(key)

    async def start_of(self, key, turn_id):
        return await self.places.start_of(key, turn_id)


@pytest.fixture
async def slow(edge, client):
    """From now on the edge learns of the places of threads when `may` is set; there is one, "a"."""
    assert (await client.post("/threads", json={"thread_id": "a"})).status_code == 200
    catch_up = edge.edge.context.feed.catch_up
    catch_up.places = SlowPlaces(catch_up.places)
    return catch_up.places


async def came(edge, count):
    async with asyncio.timeout(60):
        while sum(edge.edge.context.sockets.starts._watching.values()) < count:
            await asyncio.sleep(0.005)


async def test_a_watcher_that_came_while_the_turn_was_asked_for(edge, worker, client, slow):
    """The turn is over before the stream knows where it begins."""
    slow.may.set()
    async with sse(client, "a", channels=WATCHER) as events:
        await came(edge, 1)
        await run_start(client, "a")
        first = await until(events)
    slow.may.clear()
    async with asyncio.timeout(60):
        while edge.edge.context.sockets.starts._listening:
            await asyncio.sleep(0.005)
    may_begin = asyncio.Event()
    hello = worker.script

    async def waits(turn):
        await may_begin.wait()
        await hello(turn)

    worker.script = waits
    asking = asyncio.create_task(run_start(client, "a"))
    async with asyncio.timeout(60):
        while len(worker.commands) < 2:
            await asyncio.sleep(0.005)
    async with sse(client, "a", channels=WATCHER) as events:
        await came(edge, 1)
        may_begin.set()
        await asking
        await worker.idle()
        slow.may.set()
        told = await until(events)
    assert told[0]["params"]["data"]["event"] == "running"
    assert told[0]["seq"] > first[-1]["seq"]


async def test_a_turn_waits_for_the_watcher_that_came_before(edge, worker, client, slow):
    edge.edge.context.sockets.starts.stand_wait_s = 60
    async with sse(client, "a", channels=WATCHER) as events:
        await slow.asked.wait()
        asking = asyncio.create_task(run_start(client, "a"))
        async with asyncio.timeout(60):
            while not edge.edge.context.sockets.starts._asked:
                await asyncio.sleep(0.005)
        assert not worker.commands
        slow.may.set()
        await asking
        told = await until(events)
    assert told[0]["params"]["data"]["event"] == "running"
