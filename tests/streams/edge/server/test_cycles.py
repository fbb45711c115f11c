"""What requests and streams leave behind in an edge: nothing that only a collection would free."""

from __future__ import annotations

import asyncio
import gc
import json
import types
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import connect

from turnstream.streams.app.edge import open_edge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from turnstream.streams.app.settings import Settings
    from turnstream.streams.edge.server.process import Edge

AGAIN = 3
OURS = ("turnstream.", "starlette.", "fastapi.", "uvicorn.", "asyncpg.", "aiokafka.", "_asyncio.")
PLACES = ("/streams/edge/", "/starlette/", "/fastapi/", "/uvicorn/")
RUN = {"assistant_id": "agent", "input": {"n": 1}, "if_not_exists": "create"}
START = {"id": 1, "method": "run.start", "params": {"assistant_id": "agent", "input": {"n": 1}}}
EVENTS = {"channels": ["lifecycle", "messages"]}


def left() -> Counter[str]:
    """Objects and stacks of the edge that nothing refers to but themselves."""
    gc.collect()
    found: Counter[str] = Counter()
    for thing in gc.garbage:
        kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
        if isinstance(thing, types.TracebackType):
            name = thing.tb_frame.f_code.co_filename
            if any(place in name for place in PLACES):
                found[f"{kind} {name}:{thing.tb_lineno}"] += 1
        elif kind.startswith(OURS):
            found[kind] += 1
    gc.garbage.clear()
    return found


@pytest.fixture
async def edge(settings: Settings) -> AsyncIterator[Edge]:
    """An edge that reads states as it does in a process of its own."""
    async with open_edge(settings) as edge:
        task = asyncio.create_task(edge.run())
        async with asyncio.timeout(60):
            await edge.tail.ready.wait()
        yield edge
        edge.stop()
        async with asyncio.timeout(60):
            await task


async def post(http: httpx.AsyncClient, path: str, body: Any, status: int) -> None:
    answer = await http.post(path, json=body)
    assert answer.status_code == status, answer.text


async def run_and_wait(http: httpx.AsyncClient, thread: str) -> None:
    await post(http, f"/threads/{thread}/runs/wait", RUN, 200)


async def run_and_stream(http: httpx.AsyncClient, thread: str) -> None:
    async with http.stream("POST", f"/threads/{thread}/runs/stream", json=RUN) as answer:
        async for _ in answer.aiter_bytes():
            pass


async def command(http: httpx.AsyncClient, thread: str) -> None:
    await post(http, f"/threads/{thread}/commands", START, 200)


async def chat(http: httpx.AsyncClient, thread: str) -> None:
    await post(http, "/chat", {"text": "hi", "thread_id": thread}, 200)


async def unknown_thread(http: httpx.AsyncClient, thread: str) -> None:
    assert (await http.get(f"/threads/{thread}/state")).status_code == 404


async def refused_body(http: httpx.AsyncClient, thread: str) -> None:
    await post(http, f"/threads/{thread}/runs", {"assistant_id": 7}, 422)


async def refused_command(http: httpx.AsyncClient, thread: str) -> None:
    await post(http, f"/threads/{thread}/commands", {"id": 1}, 400)


async def events_cut_by_the_client(http: httpx.AsyncClient, thread: str) -> None:
    await command(http, thread)
    path = f"/threads/{thread}/stream/events"
    async with http.stream("POST", path, json=EVENTS) as answer:
        async for _ in answer.aiter_bytes():
            break


async def socket(http: httpx.AsyncClient, thread: str) -> None:
    url = f"ws://{http.base_url.netloc.decode()}/threads/{thread}/stream/events"
    async with connect(url) as opened:
        ask = {"id": 2, "method": "subscription.subscribe", "params": EVENTS}
        await opened.send(json.dumps(ask))
        await opened.send(json.dumps(START))
        async with asyncio.timeout(60):
            while b"completed" not in (got := await opened.recv(decode=False)):
                assert got


async def plain_socket(http: httpx.AsyncClient, thread: str) -> None:
    async with connect(f"ws://{http.base_url.netloc.decode()}/ws") as opened:
        await opened.send(json.dumps({"type": "chat", "text": "hi", "thread_id": thread}))
        async with asyncio.timeout(60):
            while b'"end"' not in (got := await opened.recv(decode=False)):
                assert got


@pytest.mark.parametrize(
    "ask",
    [
        run_and_wait, run_and_stream, command, chat, unknown_thread, refused_body, refused_command,
        events_cut_by_the_client, socket, plain_socket,
    ],
)  # fmt: skip
async def test_requests_leave_no_cycles(
    edge: Edge, worker: Any, uncollected: None, ask: Callable[..., Awaitable[None]]
) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{edge.port}", timeout=60) as http:
        await ask(http, "warm")
        await worker.idle()
        gc.collect()
        gc.garbage.clear()
        for again in range(AGAIN):
            await ask(http, f"{ask.__name__}-{again}")
        await worker.idle()
        async with asyncio.timeout(60):
            while edge.context.feed.threads or edge.context.sockets.outlets:
                await asyncio.sleep(0.01)
    found = left()
    assert not found, found.most_common(20)
