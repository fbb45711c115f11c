"""Who may send from where, CORS, and errors that no route caught."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from edge_routes import routes_of
from pydantic import SecretStr
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from turnstream.schemas import unexpected
from turnstream.schemas.errors import TurnstreamError
from turnstream.streams.edge.deliver.event_stream import EventStream
from turnstream.streams.edge.deliver.later_answer import LaterAnswer
from turnstream.streams.edge.server.entrance import check_json
from turnstream.streams.edge.server.origins import check_host, check_origin, check_same_site

SECRET = "a secret of at least thirty-two bytes"
APP = "https://app.example"
EVIL = "https://evil.example"


def refuses(check, *args):
    try:
        check(*args)
    except TurnstreamError as error:
        return error.code
    return None


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8123",
        "127.0.0.1:1",
        "127.9.9.9",
        "[::1]:8123",
        "a.localhost",
        "edge",
    ],
)
def test_hosts_that_lead_to_this_machine_alone(host):
    assert refuses(check_host, {"host": host}, frozenset({"edge"})) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1:8123",
        "0.0.0.0",
        "",
        "[",
        "a@localhost@evil.example",
        "evil.example#localhost",
        "evil.example/.localhost",
    ],
)
def test_hosts_that_may_lead_here_by_another_name(host):
    assert refuses(check_host, {"host": host}) == "host"


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "code"),
    [
        (None, "localhost", (), None),
        ("http://localhost:8123", "localhost:8123", (), None),
        ("http://localhost:8123", "localhost:8123", (APP,), None),
        ("https://localhost", "localhost:443", (), None),
        (APP, "localhost", (APP,), None),
        (EVIL, "localhost", ("*",), None),
        ("null", "localhost", (), "origin"),
        (EVIL, "localhost", (APP,), "origin"),
        ("http://localhost:3000", "localhost:8123", (), "origin"),
        ("https://app.example.evil.example", "localhost", (APP,), "origin"),
        ("http://[", "localhost", (), "origin"),
    ],
)
def test_origins(origin, host, allowed, code):
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    assert refuses(check_origin, headers, allowed) == code


def test_a_get_with_effects_says_where_its_page_is():
    for site, code in {
        "none": None,
        "same-origin": None,
        "same-site": "origin",
        "cross-site": "origin",
        "?": "origin",
    }.items():
        headers = {"host": "localhost", "sec-fetch-site": site}
        assert refuses(check_same_site, headers, ()) == code, site
    allowed = {"host": "localhost", "sec-fetch-site": "cross-site", "origin": APP}
    assert refuses(check_same_site, allowed, (APP,)) is None
    assert refuses(check_same_site, {"host": "localhost"}, ()) is None


def test_bodies_are_json():
    for media in ("application/json", "Application/JSON; charset=utf-8", "application/a+json"):
        assert refuses(check_json, {"content-length": "2", "content-type": media}) is None
    for media in ("text/plain", "", "application/jsonp", "multipart/form-data", "text/json"):
        for size in ({"content-length": "2"}, {"transfer-encoding": "chunked"}):
            code = refuses(check_json, size | {"content-type": media})
            assert code == "unsupported_media_type"
    assert refuses(check_json, {"content-type": "text/plain", "content-length": "0"}) is None


def paths_of(edge):
    """Yield every route of the app, with something in place of its parameters."""
    for method, path in routes_of(edge.edge.server.app):
        yield method, re.sub(r"\{\w+\}", "0-1" if "letter" in path else "x", path)


async def test_without_authentication_no_foreign_page_reaches_any_route(edge):
    bad = ({"Host": "evil.example"}, {"Origin": EVIL}, {"Origin": "null"})
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        for method, path in paths_of(edge):
            assert "{" not in path, path
            for headers in bad:
                if method == "WS":
                    place = edge.ws.replace("127.0.0.1", headers.get("Host", "127.0.0.1")) + path
                    origin = headers.get("Origin")
                    async with connect(
                        place, host="127.0.0.1", port=edge.edge.port, origin=origin
                    ) as socket:
                        with pytest.raises(ConnectionClosed) as closed:
                            await socket.recv()
                    assert closed.value.rcvd.code == 4403, path
                    continue
                got = await client.request(method, path, headers=headers)
                assert got.status_code == 403, (method, path, headers)
                assert got.json()["code"] in {"host", "origin"}
    assert not edge.edge.context.submit.is_recent("default/x")


async def test_a_body_has_to_be_declared_as_json(edge, worker):
    start = {"id": 1, "method": "run.start", "params": {"assistant_id": "agent", "input": {}}}
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        for path in ("/threads/a/commands", "/threads/a/stream/events", "/chat", "/threads"):
            for media in ("text/plain", "application/x-www-form-urlencoded"):
                got = await client.post(
                    path, content=json.dumps(start), headers={"Content-Type": media}
                )
                assert (got.status_code, got.json()["code"]) == (415, "unsupported_media_type")
        got = await client.post("/threads/a/commands", json=start)
        assert got.status_code == 200
    assert len(worker.commands) == 1


async def test_origins_that_are_allowed_may_read_answers(settings, open_running, worker):
    allowing = {"allowed_origins": (APP,), "jwt_secret": SecretStr(SECRET)}
    for update in ({"allowed_origins": (APP,)}, allowing):
        async with (
            open_running(settings.model_copy(update=update)) as edge,
            httpx.AsyncClient(base_url=edge.url, timeout=60) as client,
        ):
            asks = {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type,last-event-id",
            }
            got = await client.options("/threads/a/runs/stream", headers={"Origin": APP} | asks)
            assert got.status_code == 200
            assert got.headers["access-control-allow-origin"] == APP
            assert "POST" in got.headers["access-control-allow-methods"]
            assert "last-event-id" in got.headers["access-control-allow-headers"].lower()
            got = await client.options("/threads/a/runs/stream", headers={"Origin": EVIL} | asks)
            assert got.status_code == 400
            assert "access-control-allow-origin" not in got.headers
            got = await client.get("/threads/none", headers={"Origin": APP})
            assert got.status_code in {401, 404}  # a page can read errors as well
            assert got.headers["access-control-allow-origin"] == APP
            exposed = got.headers["access-control-expose-headers"].lower()
            for name in ("location", "content-location", "retry-after", "last-event-id"):
                assert name in exposed


async def test_a_path_with_a_slash_too_many_leads_nowhere(edge):
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        for method, path in paths_of(edge):
            if method != "WS" and not path.endswith("/"):
                got = await client.request(method, f"{path}/")
                assert got.status_code in {404, 405}, (method, path)
                assert "location" not in got.headers


class _Custom(Exception):
    def __str__(self):
        return "postgresql://user:password@db/secret"


async def _until_cut(client, path):
    text = ""
    try:
        async with client.stream("GET", path) as stream:
            async for part in stream.aiter_text():
                text += part
    except httpx.RemoteProtocolError:
        return text
    raise AssertionError("a cut was to come, not an end")


async def test_an_error_that_no_route_caught_ends_one_request_alone(edge, capsys):
    """A client gets the error's class and an id; neither it nor the log gets the text."""
    context = edge.edge.context
    app = edge.edge.server.app

    async def broken(*_):
        raise _Custom

    async def broken_stream():
        yield b"event: one\ndata: 1\n\n"
        raise _Custom

    async def streams(_):
        return EventStream.of(broken_stream(), context.sockets, caller)

    async def waits(_):
        return LaterAnswer(broken, context.sockets, caller)

    async def broken_socket(websocket):
        await websocket.accept()
        await broken()

    caller = await context.auth.authenticate(None)
    app.router.routes[:0] = [
        Route("/broken", broken),
        Route("/broken/stream", streams),
        Route("/broken/later", waits),
        WebSocketRoute("/broken/ws", broken_socket),
        WebSocketRoute("/broken/early", broken),
    ]
    before = dict(unexpected.counts())
    context.state.values = broken
    context.exists = broken
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        neighbour = connect(f"{edge.ws}/ws")
        async with neighbour as socket:
            got = await client.get("/broken")
            assert got.status_code == 500
            problem = got.json()
            assert (problem["code"], len(problem["error_id"])) == ("internal", 8)
            assert "_Custom" in problem["detail"]
            shown = [got.text]
            shown.append(await _until_cut(client, "/broken/stream"))
            assert '"internal"' in shown[-1]
            got = await client.get("/broken/later")
            shown.append(got.text)
            assert got.json()["__error__"]["error"] == "internal"
            for path in ("/broken/ws", "/broken/early"):
                async with connect(edge.ws + path) as other:
                    with pytest.raises(ConnectionClosed) as closed:
                        await other.recv()
                    assert closed.value.rcvd.code == 1011
                    assert closed.value.rcvd.reason.startswith("internal ")
            # frames: on both kinds of sockets
            await socket.send(json.dumps({"type": "subscribe", "thread_id": "a", "id": 1}))
            answer = json.loads(await socket.recv())
            assert (answer["type"], answer["code"], answer["id"]) == ("error", "internal", 1)
            shown.append(str(answer))
            async with connect(f"{edge.ws}/threads/a/stream/events") as thread:
                await thread.send(
                    json.dumps(
                        {
                            "id": 7,
                            "method": "input.respond",
                            "params": {"interrupt_id": "i", "response": 1},
                        }
                    )
                )
                answer = json.loads(await thread.recv())
                assert (answer["type"], answer["id"]) == ("error", 7)
                assert answer["message"].startswith("internal: ")
                shown.append(str(answer))
            await socket.send(json.dumps({"type": "ping"}))
            assert json.loads(await socket.recv())["type"] == "pong"
        metrics = (await client.get("/metrics")).text
        assert 'turnstream_unexpected_errors_total{place="edge_request"}' in metrics
    after = unexpected.counts()
    for place in ("edge_request", "edge_stream", "edge_answer", "edge_socket", "edge_frame"):
        assert after[place] > before.get(place, 0), place
    log = "".join(capsys.readouterr())
    assert "unexpected_error" in log
    assert "password" not in log
    assert not [text for text in shown if "password" in text]
