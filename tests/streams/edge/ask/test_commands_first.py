"""Nothing but commands is answered before FastAPI sees it; the routes' tests hold the rest."""

from __future__ import annotations

import pytest

from turnstream.streams.edge.routes.thread_stream import CommandsFirst


async def passed_on(scope: dict) -> bool:
    seen: list[dict] = []

    async def app(scope, _receive, _send) -> None:
        seen.append(scope)

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: dict) -> None:
        pass

    await CommandsFirst(app)(scope, receive, send)
    return seen == [scope]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/threads/t/commands"),
        ("POST", "/threads/t/commands/"),
        ("POST", "/threads/t/u/commands"),
        ("POST", "/threads//commands"),
        ("POST", "/x/threads/t/commands"),
        ("POST", "/threads/t/runs"),
        ("POST", "/threads/commands"),
    ],
)
async def test_other_requests_pass(method: str, path: str) -> None:
    assert await passed_on({"type": "http", "method": method, "path": path})


async def test_sockets_pass() -> None:
    assert await passed_on({"type": "websocket", "path": "/threads/t/commands"})
