"""Surfaces are rendered for those who ask for them, and for nobody else; a new one is little."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from turnstream.streams.edge.deliver.frames import OPENED
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.surfaces.protocol import Projection

sys.path.insert(0, str(Path(__file__).parents[1]))
from following import KEY, hello, run, until
from toy_surface import router as capitals

BEGINNING = Cursor(1, -1).seq


@pytest.fixture
def rendered(monkeypatch):
    """The changes that were rendered for the agent protocol."""
    changes = []
    whole = Projection.apply

    def counted(self, change):
        changes.append(change)
        return whole(self, change)

    monkeypatch.setattr(Projection, "apply", counted)
    return changes


@pytest.fixture
async def client(edge):
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        yield client


async def events(response):
    """Yield name, data and id of server-sent events."""
    event = {}
    async for line in response.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            yield event.get("event", ""), json.loads(event["data"]), event.get("id", "")
            event = {}


async def to(last, reading):
    """Return events up to one of a name, or with this data."""
    got = []
    async with asyncio.timeout(60):
        async for event in reading:
            got.append(event)
            if last in event:
                return got
    raise AssertionError(got)


@asynccontextmanager
async def reading(client, method, path, **request):
    async with client.stream(method, path, **request) as response:
        assert response.status_code == 200, await response.aread()
        async with aclosing(events(response)) as stream:
            yield stream


def plain(client, **params):
    return reading(client, "GET", "/chat/stream", params={"thread_id": "a", **params})


def joined(client, turn):
    path = f"/threads/a/runs/{turn.turn_id}/stream"
    return reading(client, "GET", path, params={"stream_mode": "messages-tuple"})


def protocol(client, **body):
    body = {"channels": ["lifecycle", "messages"], **body}
    return reading(client, "POST", "/threads/a/stream/events", json=body)


async def to_end(stream):
    """Return the protocol's events up to a run's end."""
    got = []
    async with asyncio.timeout(60):
        async for _, event, _ in stream:
            got.append(event)
            if event["params"]["data"].get("event") == "completed":
                return got
    raise AssertionError(got)


def ids(got):
    return [event["event_id"] for event in got if event["method"] != OPENED]


async def test_plain_and_run_readers_render_no_agent_protocol(edge, client, worker, rendered):
    first = await run(worker, hello)
    thread = edge.edge.context.feed.threads
    async with plain(client) as live, plain(client, since=BEGINNING) as replayed:
        await to("end", replayed)
        async with joined(client, first) as over:
            assert (await to("end", over))[0][0] == "metadata"
        await until(lambda: len(thread[KEY].taps) == 2)
        second = await run(worker, hello)
        for stream in (live, replayed):
            assert (await to("end", stream))[-1][1]["run_id"] == second.turn_id
        async with joined(client, second) as over:
            await to("end", over)
        assert thread[KEY].surfaces == {}
    assert rendered == []


async def test_a_surface_is_rendered_once_while_anybody_asks(edge, client, worker, rendered):
    await run(worker, hello)
    threads = edge.edge.context.feed.threads

    async with plain(client, since=BEGINNING) as beside:
        await to("end", beside)
        async with protocol(client) as one, protocol(client) as other:
            await until(lambda: threads[KEY].surfaces)
            await until(lambda: len(threads[KEY].surfaces[Projection].taps) == 2)
            rendered.clear()
            turn = await run(worker, hello)
            shown = ids(await to_end(one))
            assert ids(await to_end(other)) == shown
            mine = [change for change in rendered if change.record.turn_id == turn.turn_id]
            offsets = [change.offset for change in mine]
            assert offsets == sorted(set(offsets)), "a record was rendered for each reader"
            assert mine[-1].record.terminal
            await to("end", beside)
        await until(lambda: not threads[KEY].surfaces)
        rendered.clear()
        await run(worker, hello)
        await to("end", beside)
        assert rendered == []
        # what a surface shows does not hang on when its reader came
        async with protocol(client, since=BEGINNING) as late:
            await to_end(late)
            assert ids(await to_end(late)) == shown


async def test_a_surface_is_one_projection_and_one_route(edge, client, worker, rendered):
    edge.edge.server.app.include_router(capitals)
    threads = edge.edge.context.feed.threads
    path = "/threads/a/capitals"
    await run(worker, hello)
    async with reading(client, "GET", path) as live:
        ((name, _, begin),) = await to("HELLO", live)
        assert name == "capitals"
        await until(lambda: threads[KEY].taps)
        await run(worker, hello)
        got = await to("END", live)
        assert "".join(word for _, word, _ in got) == "HELLO WORLD END"
    places = [int(place) for _, _, place in got]
    assert places == sorted(set(places))
    assert places[0] > int(begin)
    async with reading(client, "GET", path, params={"since": places[0]}) as back:
        assert await to("END", back) == got[1:]
    assert rendered == []
