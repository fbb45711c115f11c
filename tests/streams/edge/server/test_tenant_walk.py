"""Another tenant walks every route and every frame with the ids of a thread that is not its own.

The routes are those of the app: a new one is walked without being named here.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from types import SimpleNamespace
from typing import get_args, get_type_hints

import httpx
import jwt
import pytest
from edge_routes import routes_of
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from turnstream.schemas.records import events as ev
from turnstream.streams.app.edge import open_edge
from turnstream.streams.edge.routes.plain_dialect import Frame

SECRET = "a secret of at least thirty-two bytes"
MARK = "only-acme-knows"
ASKED = "0" * 32
OPEN = ("/healthz", "/readyz", "/metrics", "/ok", "/info", "/docs", "/openapi.json")


def bearing(tenant, user):
    # made when the module is read, which a busy machine may do long before its tests run
    claims = {"tenant": tenant, "sub": user, "exp": time.time() + 86_400}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


ANN, EVE = bearing("acme", "ann"), bearing("other", "eve")


@pytest.fixture
async def guarded(settings):
    """An edge that asks for tokens and reads states as it does in earnest."""
    guarded = settings.model_copy(update={"jwt_secret": SecretStr(SECRET)})
    async with open_edge(guarded) as edge:
        running = asyncio.create_task(edge.run())
        place = f"127.0.0.1:{edge.port}"
        try:
            async with asyncio.timeout(60):
                await edge.context.feed.log.ready.wait()
            yield SimpleNamespace(edge=edge, url=f"http://{place}", ws=f"ws://{place}")
        finally:
            edge.stop()
            await running


@pytest.fixture
async def known(guarded, worker):
    """The ids of a thread of `acme` with one turn, over but for its question."""

    async def script(turn):
        text = MARK if turn.claim.thread_key.startswith("acme/") else "eve's own"
        await turn.start()
        await turn.message(text)
        await turn.say(ev.InputRequested, interrupt_id=ASKED, payload=json.dumps(text))
        asks = [ev.Interrupt(id=ASKED, payload=json.dumps(text))]
        await turn.end(ev.TurnInterrupted, interrupts=asks)

    worker.script = script
    async with httpx.AsyncClient(base_url=guarded.url, timeout=60, headers=ANN) as client:
        made = {"thread_id": "private", "metadata": {"mark": MARK}}
        assert (await client.post("/threads", json=made)).status_code == 200
        run = {"assistant_id": "agent", "input": {"mark": MARK}, "metadata": {"mark": MARK}}
        got = await client.post("/threads/private/runs", json=run)
        assert got.status_code == 200, got.text
        await worker.idle()
    return {
        "thread_id": "private",
        "run_id": got.json()["run_id"],
        "assistant_id": "agent",
        "checkpoint_id": "c1",
        "letter": "0-0",
        "cron_id": got.json()["run_id"],
        "namespace": "n",
    }


def body_of(known):
    """Return what fits the bodies of most routes: each takes the fields that it knows."""
    run = {"assistant_id": "agent", "if_not_exists": "reject", "input": {"x": 1}}
    return run | {
        "id": 1,
        "method": "input.respond",
        "params": {"interrupt_id": ASKED, "response": 1, "run_id": known["run_id"]},
        "channels": ["messages", "values"],
        "text": "hi",
        "thread_id": known["thread_id"],
        "run_ids": [known["run_id"]],
        "ids": [known["thread_id"]],
        "metadata": {},
        "checkpoint": {"checkpoint_id": "c1"},
    }


async def asked(client, method, path, known, headers):
    """Return status and the first bytes of an answer."""
    filled = re.sub(r"\{(\w+)\}", lambda name: known[name.group(1)], path)
    params = {name: known[name] for name in ("thread_id", "run_id")}
    body = body_of(known)
    if path.startswith("/runs"):
        body |= {"if_not_exists": "create"}
    json_body = [body] if path.endswith("/batch") else body
    content = None if method in {"GET", "DELETE"} else json_body
    async with client.stream(method, filled, params=params, json=content, headers=headers) as got:
        text = b""
        try:
            async with asyncio.timeout(0.5):
                async for piece in got.aiter_bytes():
                    text += piece
        except TimeoutError:
            pass
        return got.status_code, text.decode()


async def test_every_route_asks_for_a_token(guarded, known):
    async with httpx.AsyncClient(base_url=guarded.url, timeout=60) as client:
        for method, path in routes_of(guarded.edge.server.app):
            if path.startswith(OPEN):
                continue
            for headers in ({}, {"Authorization": "Bearer x.y.z"}):
                if method == "WS":
                    place = guarded.ws + path.replace("{thread_id}", "private")
                    async with connect(place, additional_headers=headers) as socket:
                        with pytest.raises(ConnectionClosed) as closed:
                            await socket.recv()
                    assert closed.value.rcvd.code == 4401, path
                else:
                    status, text = await asked(client, method, path, known, headers)
                    assert status == 401, (method, path, text)


async def test_no_route_gives_another_tenant_anything(guarded, worker, known):
    begun = len(worker.commands)
    async with httpx.AsyncClient(base_url=guarded.url, timeout=60) as client:
        walked = [route for route in routes_of(guarded.edge.server.app) if route[0] != "WS"]
        # those that make a thread of that name in eve's own tenant come last
        walked.sort(key=lambda route: "{" not in route[1])
        # the walk finds what there is to find: with the owner's token the mark is in answers
        read = ("/threads/{thread_id}", "/threads/{thread_id}/runs", "/chat/stream")
        for path in read:
            status, text = await asked(client, "GET", path, known, ANN)
            assert (status, MARK in text) == (200, True), path
        for method, path in walked:
            status, text = await asked(client, method, path, known, EVE)
            assert MARK not in text, (method, path)
            assert status < 500 or status == 501, (method, path, text)
            if "{thread_id}" in path or "{run_id}" in path:
                assert status in {404, 422, 501}, (method, path, status, text)
        status, text = await asked(client, "GET", "/threads/{thread_id}", known, ANN)
        assert (status, MARK in text) == (200, True)
        assert json.loads(text)["status"] == "interrupted"
    await worker.idle()
    assert {command.tenant for command in worker.commands[begun:]} <= {"other"}
    assert all(turn.claim.thread_key.startswith("other/") for turn in worker.turns[1:])


async def test_no_frame_gives_another_tenant_anything(guarded, worker, known):
    begun = len(worker.commands)
    # a chat last: it makes a thread of that name in eve's own tenant
    types = sorted(get_args(get_type_hints(Frame)["type"]), key=lambda kind: kind == "chat")
    assert len(types) >= 6
    seen = []
    async with connect(f"{guarded.ws}/ws", additional_headers=EVE) as socket:
        answers = {}
        for number, kind in enumerate(types):
            fields = {"thread_id": "private", "run_id": known["run_id"], "answers": {ASKED: 1}}
            await socket.send(json.dumps(fields | {"type": kind, "id": number, "text": "hi"}))
            async with asyncio.timeout(60):
                while kind not in answers:
                    seen.append(await socket.recv())
                    answer = json.loads(seen[-1])
                    if answer.get("id") == number:
                        answers[kind] = answer
        for kind in ("resume", "cancel", "subscribe"):
            assert answers[kind]["type"] == "error", answers[kind]
    methods = ("subscription.subscribe", "input.respond", "run.cancel", "run.start")
    place = f"{guarded.ws}/threads/private/stream/events"
    async with connect(place, additional_headers=EVE) as socket:
        for number, method in enumerate(methods):
            params = {
                "channels": ["messages", "values", "lifecycle", "input"],
                "assistant_id": "agent",
                "input": {},
                "interrupt_id": ASKED,
                "response": 1,
                "run_id": known["run_id"],
            }
            await socket.send(json.dumps({"id": number, "method": method, "params": params}))
        ids = set()
        async with asyncio.timeout(60):
            while ids < set(range(len(methods))):
                seen.append(await socket.recv())
                ids.add(json.loads(seen[-1]).get("id"))
    assert MARK not in "".join(seen)
    await worker.idle()
    assert {command.tenant for command in worker.commands[begun:]} <= {"other"}
    async with httpx.AsyncClient(base_url=guarded.url, timeout=60, headers=ANN) as client:
        got = (await client.get("/threads/private")).json()
        assert got["status"] == "interrupted"
        assert len((await client.get("/threads/private/runs")).json()) == 1
