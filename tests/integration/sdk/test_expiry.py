"""`expires_at` on each surface of the edge: honoured, and refused where it cannot be meant."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LONG = "tokens=100000 rate=30"


def soon(seconds: float) -> int:
    return int((time.time() + seconds) * 1e6)


@pytest.fixture
async def http(service: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(service.url) as session:
        yield session


async def posted(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with http.post(path, json=body) as response:
        return response.status, await response.json(content_type=None)


def run_start(text: str, **more: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": text}]}
    return {
        "id": 1,
        "method": "run.start",
        "params": {"assistant_id": "agent", "input": said, **more},
    }


async def in_time(ask: Callable[[float], Awaitable[bool]]) -> None:
    """Ask with more and more seconds ahead, until the time was not over before the turn began."""
    for seconds in (1.5, 4.0, 12.0, 36.0):
        if await ask(seconds):
            return
    raise AssertionError("no turn began within 36 s")


async def test_it_ends_what_runs_and_what_waits(service: Any, http: aiohttp.ClientSession) -> None:
    async def chat(seconds: float) -> bool:
        status, answer = await posted(http, "/chat", {"text": LONG, "expires_at": soon(seconds)})
        if status == 422 or not answer["text"]:
            return False
        assert (status, answer["status"]) == (200, "timeout")
        assert answer["error"]["code"] == "expired"
        return True  # what it had said is kept

    async def commands(seconds: float) -> bool:
        body = run_start(LONG, expires_at=soon(seconds))
        _, answer = await posted(http, "/threads/c/commands", body)
        if "result" not in answer:
            return False
        run_id = answer["result"]["run_id"]
        async with http.get(f"/threads/c/runs/{run_id}/join") as response:
            await response.read()
        async with http.get(f"/threads/c/runs/{run_id}") as response:
            assert (await response.json())["status"] == "timeout"
        return True

    async def runs(seconds: float) -> bool:
        body = {"assistant_id": "agent", "input": LONG, "expires_at": soon(seconds)}
        status, run = await posted(http, "/threads/r/runs", body | {"if_not_exists": "create"})
        if status == 422:
            return False
        async with http.get(f"/threads/r/runs/{run['run_id']}/join") as response:
            await response.read()
        async with http.get(f"/threads/r/runs/{run['run_id']}") as response:
            assert (await response.json())["status"] == "timeout"
        return True

    async with http.ws_connect("/ws") as ws:
        long = {"type": "chat", "thread_id": "w", "text": LONG}
        await ws.send_json(long)
        event: dict[str, Any] = {}
        while event.get("type") != "token":
            event = await ws.receive_json()

        async def socket(seconds: float) -> bool:
            waits = {"text": "tokens=2", "id": "late", "expires_at": soon(seconds)}
            await ws.send_json(long | waits)
            event: dict[str, Any] = {}
            while event.get("type") not in {"end", "error"}:
                event = await ws.receive_json()
            if event["type"] == "error":
                assert "in the past" in event["detail"]
                return False
            assert (event["status"], event["error"]["code"]) == ("timeout", "expired")
            assert event["text"] == "", "it never ran"
            return True

        async with asyncio.timeout(200):
            await asyncio.gather(*map(in_time, (chat, commands, runs, socket)))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (1_790_000_000, "in the past"),  # seconds are meant, milliseconds are asked
        (1_790_000_000_000, "in the past"),
        (0, "in the past"),
        (10**30, "10 years ahead"),
        ("tomorrow", "integer"),
        (True, "integer"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_name(
    edge_alone: Any, wrong: Any, why: str
) -> None:
    async with aiohttp.ClientSession(edge_alone.url) as http:
        said = {"text": "hi", "thread_id": "t", "expires_at": wrong}
        status, problem = await posted(http, "/chat", said)
        assert (status, problem["field"]) == (422, "body.expires_at")
        assert why in problem["detail"]
        body = {"assistant_id": "agent", "input": "hi", "expires_at": wrong}
        status, problem = await posted(http, "/runs", body)
        assert (status, problem["field"]) == (422, "body.expires_at")
        _, answer = await posted(http, "/threads/t/commands", run_start("hi", expires_at=wrong))
        assert "expires_at" in str(answer)
        assert why in str(answer)
        async with http.ws_connect("/ws") as ws:
            await ws.send_json({"type": "chat", **said})
            answer = await ws.receive_json()
            assert answer["type"] == "error"
            assert "expires_at" in answer["detail"] + (answer["field"] or "")
        async with http.get("/threads/t") as response:
            assert response.status == 404, "nothing was made for it"
