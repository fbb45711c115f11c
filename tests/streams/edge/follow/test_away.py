"""Streams that are opened while Postgres is away: a little late, and refused where it stays away.

The database is taken from under the edge's two ways to ask it about a thread; all else is real.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import websockets
from following import texts_of
from langgraph_sdk import get_client

from turnstream.schemas.errors import DatabaseUnavailableError
from turnstream.streams.edge.ask.submit import Submit
from turnstream.streams.edge.follow import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from langgraph_sdk.client import LangGraphClient

AWAY_S = 1.0
"""An outage; longer than the SDK tries, shorter than the edge waits."""


async def away(*_key: object) -> Any:
    """Answer as a ledger does whose Postgres is away."""
    raise DatabaseUnavailableError


@pytest.fixture
async def client(edge: Any) -> AsyncIterator[LangGraphClient]:
    async with aclosing(get_client(url=edge.url)) as client:
        yield client


@pytest.fixture
async def http(edge: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as http:
        yield http


def take_postgres_from(edge: Any) -> Callable[[], None]:
    """Take Postgres away; what is returned brings it back."""
    context = edge.edge.context
    places, exists = context.feed.catch_up.places, context.exists
    context.exists = away
    held = context.feed.catch_up.places = SimpleNamespace(place=away, start_of=away)

    def back() -> None:
        context.exists = exists
        held.place, held.start_of = places.place, places.start_of

    return back


async def read_events(lines: AsyncIterator[str], until: str) -> list[str]:
    """Return the names of server-sent events up to the first that is called `until`."""
    names: list[str] = []
    async with asyncio.timeout(60):
        async for line in lines:
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
                if names[-1] == until:
                    return names
    raise AssertionError(f"the stream ended after {names}")


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_the_sdk_gets_its_streams(edge, client, worker, transport):
    """Were they refused at once, the SDK would give them up."""
    await client.threads.create(thread_id="a")
    back = take_postgres_from(edge)
    async with client.threads.stream(
        thread_id="a", assistant_id="agent", transport=transport
    ) as thread:
        reading = asyncio.create_task(texts_of(thread))
        await asyncio.sleep(AWAY_S)
        back()
        async with asyncio.timeout(60):
            while thread._cursor is None or thread._lifecycle_cursor is None:
                await asyncio.sleep(0.01)
            await thread.run.start(input={"messages": []})
            assert await reading == ["hello world "]
            assert (await thread._wait_for_run_done()).status == "completed"


async def test_plain_streams_wait(edge, client, http, worker):
    await client.threads.create(thread_id="a")
    back = take_postgres_from(edge)
    asyncio.get_running_loop().call_later(AWAY_S, back)
    async with (
        http.stream("GET", "/chat/stream", params={"thread_id": "a"}) as sse,
        websockets.connect(f"{edge.ws}/ws") as socket,
    ):
        await socket.send(json.dumps({"id": 1, "type": "subscribe", "thread_id": "a"}))
        async with asyncio.timeout(60):
            assert json.loads(await socket.recv()) == {"type": "ok", "id": 1}
        lines = sse.aiter_lines()
        assert await read_events(lines, "opened") == ["opened"]
        await client.runs.create("a", "agent", input={"messages": []})
        assert (await read_events(lines, "end"))[0] == "started"


async def test_a_run_that_is_joined_waits(edge, client, worker, monkeypatch):
    run = await client.runs.create("a", "agent", input={"messages": []}, if_not_exists="create")
    await worker.idle()
    back = take_postgres_from(edge)
    asyncio.get_running_loop().call_later(AWAY_S, back)
    # as on another edge than the one that has just heard of the thread
    monkeypatch.setattr(Submit, "is_recent", lambda _self, _key: False)
    async with asyncio.timeout(60):
        parts = [
            part async for part in client.runs.join_stream("a", run["run_id"], stream_mode="custom")
        ]
    assert [part.event for part in parts] == ["metadata", "end"]


async def test_none_waits_for_ever(edge, client, http, monkeypatch):
    monkeypatch.setattr(patience, "ANSWER_WAIT_S", 0.3)
    await client.threads.create(thread_id="a")
    exists = edge.edge.context.exists
    take_postgres_from(edge)
    for answer in (
        await http.post("/threads/a/stream/events", json={"channels": ["messages"]}),
        await http.get("/chat/stream", params={"thread_id": "a"}),
        await http.get("/threads/a/runs/0190d0a0-0000-7000-8000-000000000001/stream"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    async with websockets.connect(f"{edge.ws}/ws") as socket:
        await socket.send(json.dumps({"type": "subscribe", "thread_id": "a"}))
        async with asyncio.timeout(60):
            refused = json.loads(await socket.recv())
        assert (refused["code"], refused["retryable"]) == ("database_unavailable", True)
    edge.edge.context.exists = exists  # the thread is found, its place is not
    async with websockets.connect(f"{edge.ws}/threads/a/stream/events") as socket:
        params = {"channels": ["messages"]}
        command = {"id": 1, "method": "subscription.subscribe", "params": params}
        await socket.send(json.dumps(command))
        async with asyncio.timeout(60):
            await socket.wait_closed()
    assert socket.close_code == 4503
