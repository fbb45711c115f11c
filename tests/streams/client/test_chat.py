"""The terminal's client: what it makes of protocol frames, and of an edge that goes away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from turnstream.schemas.errors import UnavailableError
from turnstream.streams.client.pieces import End, Piece, Reader
from turnstream.streams.client.terminal import Chat, ChatError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def event(seq: int, method: str, namespace: tuple[str, ...] = (), **data: Any) -> dict[str, Any]:
    params = {"namespace": list(namespace), "data": data}
    return {"type": "event", "seq": seq, "method": method, "params": params}


def delta(seq: int, text: str) -> dict[str, Any]:
    return event(
        seq,
        "messages",
        event="content-block-delta",
        id="m",
        index=0,
        delta={"type": "text-delta", "text": text},
    )


def test_frames_become_pieces():
    reader = Reader(armed=False)
    frames = [
        event(1, "lifecycle", event="completed"),  # of an older turn
        event(2, "lifecycle", event="started"),
        event(
            3, "tools", event="tool-started", tool_call_id="c", tool_name="clock", input={"z": 1}
        ),
        event(4, "tools", event="tool-finished", tool_call_id="c", output="noon"),
        delta(5, "Hel"),
        delta(5, "Hel"),  # seen before
        event(6, "messages", event="error", id="m", message="taken back"),
        event(7, "lifecycle", ("sub:1",), event="completed"),  # of a nested graph
        event(8, "input.requested", interrupt_id="i", payload={"sure": True}),
        event(9, "values", messages=[]),
        event(10, "lifecycle", event="interrupted"),
    ]

    pieces = [piece for frame in frames for piece in reader.take(frame)]

    assert pieces == [
        Piece("tool-started", '{"z":1}', "clock", "c"),
        Piece("tool-finished", "noon", "clock", "c"),
        Piece("text", "Hel", "", "m"),
        Piece("rewound", "taken back", "", "m"),
        Piece("question", '{"sure":true}', "", "i"),
        End("interrupted"),
    ]


class Edge:
    """An edge that follows a script: the sockets' frames, one list a connection."""

    def __init__(self) -> None:
        self.sockets: list[tuple[list[dict[str, Any]], int]] = []
        self.asked: list[dict[str, Any]] = []
        self.commands: list[dict[str, Any]] = []
        self.refusal: tuple[int, dict[str, Any]] | None = None

    async def command(self, request: web.Request) -> web.Response:
        self.commands.append(json.loads(await request.read()))
        if self.refusal is not None:
            return web.json_response(self.refusal[1], status=self.refusal[0])
        answer = {"type": "success", "id": 1, "result": {"run_id": "r"}}
        return web.json_response({**answer, "meta": {"applied_through_seq": 100}})

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        subscribe = await socket.receive()
        assert subscribe.type is WSMsgType.TEXT
        self.asked.append(json.loads(subscribe.data)["params"])
        frames, code = self.sockets.pop(0) if self.sockets else ([], 1012)
        await socket.send_json({"type": "success", "id": 1, "result": {}})
        for frame in frames:
            await socket.send_json(frame)
        await socket.close(code=code)
        return socket


@pytest.fixture
async def edge() -> AsyncIterator[tuple[Edge, Chat]]:
    edge = Edge()
    app = web.Application()
    app.router.add_post("/threads/{thread}/commands", edge.command)
    app.router.add_get("/threads/{thread}/stream/events", edge.stream)
    async with TestServer(app) as server, Chat(str(server.make_url("")), "a/b c") as chat:
        yield edge, chat


async def test_a_dropped_socket_comes_back_with_its_cursor(edge: tuple[Edge, Chat]):
    script, chat = edge
    script.sockets = [
        ([delta(101, "one "), delta(102, "two ")], 1012),
        ([], 1012),
        (
            [delta(102, "two "), delta(103, "three"), event(104, "lifecycle", event="completed")],
            1000,
        ),
    ]

    await chat.send("count")
    pieces = [piece async for piece in chat.turn()]

    shown = [p.text for p in pieces if isinstance(p, Piece) and p.kind == "text"]
    assert "".join(shown) == "one two three"
    assert pieces[-1] == End("completed")
    assert [params["since"] for params in script.asked] == [100, 102, 102]
    assert script.commands[0]["params"]["assistant_id"] == "agent"


async def test_cancel_names_the_run(edge: tuple[Edge, Chat]):
    script, chat = edge
    script.sockets = [([event(101, "lifecycle", event="failed", error="cancelled")], 1000)]

    await chat.send("count")
    await chat.cancel()

    assert [piece async for piece in chat.turn()] == [End("failed", "cancelled")]
    assert script.commands[1]["method"] == "run.cancel"
    assert script.commands[1]["params"] == {"run_id": "r"}


async def test_refusals_are_errors_and_not_tried_again(edge: tuple[Edge, Chat]):
    script, chat = edge
    script.refusal = (409, {"code": "busy", "title": "Conflict", "detail": "a turn runs"})
    with pytest.raises(ChatError, match="a turn runs") as caught:
        await chat.send("hello")
    assert caught.value.code == "busy"

    script.refusal = None
    await chat.send("hello")
    script.sockets = [([], 4401)]
    with pytest.raises(ChatError, match="4401"):
        _ = [piece async for piece in chat.turn()]


async def test_no_edge_is_a_retryable_error():
    async with Chat("http://127.0.0.1:1", "t") as chat:
        with pytest.raises(UnavailableError):
            await chat.send("hello")
