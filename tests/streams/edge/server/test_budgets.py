"""One budget for every way in: requests a second, sockets, and the time of a token."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack

import httpx
import jwt
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

SECRET = "a secret of at least thirty-two bytes"


def bearing(user="ann", lasts_s=600.0):
    claims = {"tenant": "acme", "sub": user, "exp": time.time() + lasts_s}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


@pytest.fixture
def guarded(settings, open_running):
    """Return what opens an edge that asks for tokens."""

    def opened(**changes):
        update = {"jwt_secret": SecretStr(SECRET)} | changes
        return open_running(settings.model_copy(update=update))

    return opened


async def test_frames_and_handshakes_are_counted_like_requests(guarded, worker):
    """60 chats over one socket passed a limit of 5 a second."""
    async with guarded(edge_requests_per_s_max=5.0) as edge:
        edge.edge.context.rate._clock = lambda: 0.0  # ten at once, and no time passes
        async with connect(f"{edge.ws}/ws", additional_headers=bearing()) as socket:
            for number in range(60):
                chat = {"type": "chat", "id": number, "text": "hi", "thread_id": f"t{number}"}
                await socket.send(json.dumps(chat))
            answers = {}
            async with asyncio.timeout(60):
                while len(answers) < 60:
                    answer = json.loads(await socket.recv())
                    if isinstance(answer.get("id"), int):
                        answers[answer["id"]] = answer
        taken = [one for one in answers.values() if one["type"] == "accepted"]
        refused = [one for one in answers.values() if one.get("code") == "too_many_requests"]
        assert (len(taken), len(refused)) == (9, 51)  # the handshake was one
        assert all(one["retryable"] for one in refused)
        # the same user has nothing left on any other way
        for path in ("/ws", "/threads/t0/stream/events"):
            async with connect(edge.ws + path, additional_headers=bearing()) as socket:
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
            assert closed.value.rcvd.code == 4429
        async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
            got = await client.post("/threads/t0/commands", json={}, headers=bearing())
            assert got.status_code == 429
            # another user has a budget of its own: a socket, and nine commands over it
            events = f"{edge.ws}/threads/t0/stream/events"
            async with connect(events, additional_headers=bearing("bob")) as socket:
                for number in range(12):
                    command = {"id": number, "method": "run.cancel", "params": {"run_id": "x"}}
                    await socket.send(json.dumps(command))
                messages = [json.loads(await socket.recv())["message"] for _ in range(12)]
            assert sum("too_many_requests" in message for message in messages) == 3
            # so many runs in one request are so many
            runs = [{"assistant_id": "agent", "input": {}}] * 11
            got = await client.post("/runs/batch", json=runs, headers=bearing("cid"))
            assert got.status_code == 429
    assert len(worker.commands) == 9


WAITS = ("join", "wait", "chat", "stream", "cancel")


async def ask(client, kind, run_id, headers):
    """Make a request whose answer takes as long as the run."""
    match kind:
        case "join":
            call = client.get(f"/threads/a/runs/{run_id}/join", headers=headers)
        case "stream":
            call = client.get(f"/threads/a/runs/{run_id}/stream", headers=headers)
        case "wait":
            body = {"assistant_id": "agent", "input": {}}
            call = client.post("/runs/wait", json=body, headers=headers)
        case "chat":
            call = client.post("/chat", json={"text": "hi"}, headers=headers)
        case _:
            path = f"/threads/a/runs/{run_id}/cancel?wait=true"
            call = client.post(path, headers=headers)
    return await call


@pytest.fixture
def endless(worker):
    """A worker whose turns begin and do not end."""
    go_on = asyncio.Event()

    async def script(turn):
        await turn.start()
        await go_on.wait()
        await turn.end()

    worker.script = script
    yield worker
    go_on.set()


async def begun(client):
    body = {"assistant_id": "agent", "input": {}, "if_not_exists": "create"}
    return (await client.post("/threads/a/runs", json=body, headers=bearing())).json()["run_id"]


async def test_a_token_that_ends_ends_the_answers_that_are_waited_for(guarded, endless):
    async with guarded() as edge, httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        run_id = await begun(client)
        short = bearing(lasts_s=3.0)
        asked = [asyncio.create_task(ask(client, kind, run_id, short)) for kind in WAITS]
        sockets = edge.edge.context.sockets
        async with asyncio.timeout(60):
            while len(sockets.outlets) < len(WAITS):
                await asyncio.sleep(0.01)
            for kind, task in zip(WAITS, asked, strict=True):
                with pytest.raises(httpx.HTTPError):
                    await task
                assert task.exception() is not None, kind
            while sockets.outlets:
                await asyncio.sleep(0.01)
        assert edge.edge.context.sockets._per_user.total() == 0


async def test_answers_that_are_waited_for_count_as_sockets(guarded, endless):
    limit = 5
    async with (
        guarded(edge_sockets_per_user_max=limit) as edge,
        httpx.AsyncClient(base_url=edge.url, timeout=60) as client,
        AsyncExitStack() as stack,
    ):
        run_id = await begun(client)
        asked = [asyncio.create_task(ask(client, kind, run_id, bearing())) for kind in WAITS]
        for task in asked:
            stack.callback(task.cancel)
        async with asyncio.timeout(60):
            while len(edge.edge.context.sockets.outlets) < limit:
                await asyncio.sleep(0.01)
        commands = len(endless.commands)
        for kind in WAITS:
            got = await ask(client, kind, run_id, bearing())
            assert (got.status_code, got.json()["code"]) == (429, "too_many_sockets"), kind
        for _ in range(20):
            got = await ask(client, "join", run_id, bearing())
            assert got.status_code == 429
        assert len(endless.commands) == commands  # what was refused did nothing
        # another user is not concerned
        fresh = asyncio.create_task(ask(client, "join", run_id, bearing("bob")))
        async with asyncio.timeout(60):
            while len(edge.edge.context.sockets.outlets) < limit + 1:
                await asyncio.sleep(0.01)
        fresh.cancel()
