"""`GET /chat/stream` with `user_input`, as a browser's `EventSource` calls it."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import aclosing

import httpx

SAID = {"thread_id": "new", "user_input": "hello"}


async def events(client, headers=None, **params):
    """Yield the stream's events: name, data, id."""
    async with client.stream("GET", "/chat/stream", params=params, headers=headers) as stream:
        assert stream.status_code == 200, await stream.aread()
        event = {}
        async for line in stream.aiter_lines():
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                event[name] = value
            elif event:
                yield event["event"], json.loads(event["data"]), event["id"]
                event = {}


async def until(wanted, client, headers=None, **params):
    """Return events up to the first of a name."""
    got = []
    async with asyncio.timeout(60), aclosing(events(client, headers, **params)) as stream:
        async for event in stream:
            got.append(event)
            if event[0] == wanted:
                return got
    raise AssertionError(got)


async def test_it_starts_a_turn_and_streams_it_whole(edge, worker):
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        got = await until("end", client, **SAID)
        names = [name for name, _, _ in got if name != "opened"]
        assert names == ["started", "token", "token", "message", "end"]
        assert [command.text for command in worker.commands] == ["hello"]
        # each call is a turn of its own
        again = await until("end", client, **SAID)
        assert len(worker.commands) == 2
        assert again[-1][1]["run_id"] != got[-1][1]["run_id"]


async def test_a_client_that_was_cut_comes_back_to_the_turn_it_started(edge, worker):
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        got = await until("token", client, **SAID)
        back = {"Last-Event-ID": got[-1][2]}
        rest = await until("end", client, back, **SAID)
        assert [name for name, _, _ in rest] == ["token", "message", "end"]
        assert rest[-1][1]["run_id"] == got[-1][1]["run_id"]
    assert len(worker.commands) == 1


async def test_a_turn_id_makes_it_repeatable(edge, worker):
    named = SAID | {"turn_id": str(uuid.uuid4())}
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        got = await until("end", client, **named)
        assert {data.get("run_id") for _, data, _ in got} - {None} == {named["turn_id"]}
        # from its beginning, though it is over, and from where a client was cut
        whole = await until("end", client, **named)
        keep = [event for event in got if event[0] != "opened"]
        assert [event for event in whole if event[0] != "opened"] == keep
        token = next(place for place, event in enumerate(got) if event[0] == "token")
        rest = await until("end", client, {"Last-Event-ID": got[token][2]}, **named)
        assert rest == got[token + 1 :]
        assert len(worker.commands) == 1
        other = await client.get("/chat/stream", params=named | {"thread_id": "other"})
        assert (other.status_code, other.json()["code"]) == (409, "turn_id_taken")
    assert len(worker.commands) == 1


async def test_what_starts_nothing(edge, worker):
    cross = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
    ]
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        for headers in cross:
            got = await client.get("/chat/stream", params=SAID, headers=headers)
            assert got.status_code == 403, headers
        for wrong, status in (
            ({"user_input": ""}, 422),
            ({"user_input": "  "}, 422),
            ({"turn_id": "x"}, 422),
            ({"graph": "none"}, 404),
            ({"thread_id": "\x00"}, 422),
            ({"user_input": "\x00"}, 200),
        ):
            if status == 200:
                continue
            got = await client.get("/chat/stream", params=SAID | wrong)
            assert got.status_code == status, (wrong, got.text)
        got = await client.get("/chat/stream", params={"thread_id": "new"})
        assert got.status_code == 404  # and no thread was made
    assert not worker.commands
