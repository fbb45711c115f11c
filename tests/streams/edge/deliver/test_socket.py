"""WebSockets: subscriptions, frames that cannot be right, readers that do not read, tokens."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import httpx
import jwt
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from turnstream.schemas.records import events as ev
from turnstream.streams.edge.deliver import fanout
from turnstream.streams.edge.deliver.frames import websocket_frame
from turnstream.streams.edge.server import serving as server

SECRET = "a secret of at least thirty-two bytes"
ALL = ["lifecycle", "messages", "input", "tools", "values"]


def url(edge, thread="a"):
    return f"{edge.ws}/threads/{thread}/stream/events"


async def command(socket, method, **params):
    await socket.send(json.dumps({"id": 7, "method": method, "params": params}))
    while True:
        answer = json.loads(await asyncio.wait_for(socket.recv(), 60))
        if answer.get("id") == 7 or answer.get("type") == "error":
            return answer


async def until_end(socket):
    got = []
    async with asyncio.timeout(120):
        while True:
            item = json.loads(await socket.recv())
            got.append(item)
            if item.get("method") == "lifecycle" and item["params"]["data"]["event"] in {
                "completed",
                "failed",
            }:
                return got


@pytest.fixture
async def thread(edge, worker):
    """A thread that exists."""
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        body = {"id": 1, "method": "run.start", "params": {"assistant_id": "agent", "input": {}}}
        assert (await client.post("/threads/a/commands", json=body)).status_code == 200
    return "a"


async def test_commands_and_events_over_one_socket(edge, worker, thread):
    async with connect(url(edge)) as socket:
        answer = await command(socket, "subscription.subscribe", channels=ALL)
        assert answer["type"] == "success"
        name = answer["result"]["subscription_id"]
        started = await command(socket, "run.start", assistant_id="agent", input={})
        got = await until_end(socket)
        assert got[-1]["params"]["data"]["event"] == "completed"
        if started["type"] == "success":
            assert got[0]["event_id"].startswith(started["result"]["run_id"])
        gone = await command(socket, "subscription.unsubscribe", subscription_id=name)
        assert gone["type"] == "success"
        again = await command(socket, "subscription.unsubscribe", subscription_id=name)
        assert again["error"] == "no_such_subscription"


async def test_final_values_come_before_the_end_on_every_subscription(edge, worker):
    """The JavaScript SDK reads them as one stream, and leaves off at the end."""
    reading = edge.states.values

    async def slowly(key):
        await asyncio.sleep(0.3)  # a database that takes its time
        return await reading(key)

    edge.states.values = slowly
    go_on = asyncio.Event()

    async def script(turn):
        await turn.start()
        await go_on.wait()
        await turn.message("hello world")
        await turn.end()

    worker.script = script
    async with connect(url(edge)) as socket:
        assert (await command(socket, "run.start", assistant_id="agent", input={}))["id"] == 7
        for channels in (["lifecycle", "input"], ["values", "lifecycle"], ["messages"]):
            await command(socket, "subscription.subscribe", channels=channels)
        go_on.set()
        live = await until_end(socket)
    assert [e["method"] for e in live].index("values") < len(live) - 1
    # the same of a turn that is over when the streams come
    async with connect(url(edge)) as socket:
        assert (await command(socket, "run.start", assistant_id="agent", input={}))["id"] == 7
        await worker.idle()
        for number, channels in enumerate((["lifecycle", "input"], ["values", "lifecycle"])):
            frame = {"id": number, "method": "subscription.subscribe"}
            await socket.send(json.dumps(frame | {"params": {"channels": channels}}))
        replayed = [e for e in await until_end(socket) if "method" in e]
    assert "values" in [e["method"] for e in replayed]


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        ("nonsense", "invalid_argument"),
        ("[1, 2]", "invalid_argument"),
        ('{"id": "x", "method": "run.start"}', "invalid_argument"),
        ('{"id": 1, "method": "agent.dance", "params": {}}', "unknown_command"),
        ('{"id": 1, "method": "subscription.subscribe", "params": {}}', "invalid_argument"),
        (
            '{"id": 1, "method": "subscription.subscribe", "params": {"channels": ["no"]}}',
            "invalid_argument",
        ),
        (
            '{"id":1,"method":"subscription.subscribe","params":{"channels":["values"],"since":-4}}',
            "invalid_argument",
        ),
        ('{"id": 1, "method": "run.start", "params": {"assistant_id": 5}}', "invalid_argument"),
        ('{"id": 1, "method": "run.start", "params": {"assistant_id": "no"}}', "unknown_error"),
        ('{"id": 1, "method": "run.cancel", "params": {"run_id": "x"}}', "invalid_argument"),
        ("[" * 2000 + "]" * 2000, "invalid_argument"),
    ],
)
async def test_a_bad_frame_is_answered_and_the_socket_goes_on(edge, thread, frame, error):
    async with connect(url(edge)) as socket:
        await socket.send(frame)
        answer = json.loads(await asyncio.wait_for(socket.recv(), 60))
        assert (answer["type"], answer["error"]) == ("error", error)
        answer = await command(socket, "subscription.subscribe", channels=ALL)
        assert answer["type"] == "success"


async def test_bytes_are_no_command(edge, thread):
    async with connect(url(edge)) as socket:
        await socket.send(b"\x00\xff")
        assert json.loads(await socket.recv())["type"] == "error"


async def closed_with(socket):
    with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012  whatever comes before the close
        async with asyncio.timeout(60):
            while True:
                await socket.recv()
    return closed.value.rcvd.code


async def test_commands_beyond_those_under_way_wait_and_are_answered(edge, thread):
    many = 4 * edge.edge.context.sockets.limits.commands_per_socket_max
    async with connect(url(edge)) as socket:
        for number in range(many):
            params = {"run_id": "00000000-0000-0000-0000-000000000000"}
            frame = {"id": number, "method": "run.cancel", "params": params}
            await socket.send(json.dumps(frame))
        answers = [json.loads(await asyncio.wait_for(socket.recv(), 60)) for _ in range(many)]
    assert {answer["id"] for answer in answers} == set(range(many))


@pytest.mark.parametrize("surface", ["protocol", "plain"])
async def test_too_many_bad_frames_close_the_socket(edge, thread, surface):
    async with connect(url(edge) if surface == "protocol" else f"{edge.ws}/ws") as socket:
        for _ in range(17):
            await socket.send("nonsense")
        assert await closed_with(socket) == 4400


async def test_a_frame_that_is_too_large_closes_the_socket(edge, thread):
    async with connect(url(edge)) as socket:
        await socket.send("x" * (edge.edge.context.settings.edge_frame_bytes_max + 1))
        assert await closed_with(socket) == 1009


@pytest.mark.parametrize(
    ("name", "code"),
    [("unknown", 4404), ("%00", 4422), ("x" * 1000, 4422), ("%20", 4422)],
)
async def test_thread_ids_that_are_not_ours(edge, name, code):
    no_wait_for_unknown_threads(edge)
    async with connect(url(edge, name)) as socket:
        assert await closed_with(socket) == code


def no_wait_for_unknown_threads(edge, wait_s=0.0):
    sockets = edge.edge.context.sockets
    sockets.limits = replace(sockets.limits, unknown_thread_wait_s=wait_s)


async def test_a_thread_may_begin_on_its_own_socket(edge, worker):
    """The JavaScript SDK connects before it begins a thread that it named itself."""
    no_wait_for_unknown_threads(edge, 3.0)
    async with connect(url(edge, "new")) as socket:
        deadline = time.monotonic() + 3.5  # past the wait: a thread that began stays
        answer = await command(socket, "subscription.subscribe", channels=ALL)
        assert answer["type"] == "success"
        refused = await command(socket, "input.respond", interrupt_id="i", response=1)
        assert refused["error"] == "unknown_error"
        assert "thread_not_found" in refused["message"]
        started = await command(socket, "run.start", assistant_id="agent", input={})
        assert started["type"] == "success"
        await until_end(socket)
        while time.monotonic() < deadline:
            await asyncio.wait_for(await socket.ping(), 60)
            await asyncio.sleep(0.1)


async def test_an_address_that_is_too_long_is_refused_at_once(edge):
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url(edge, "x" * 10_000)):
            pass
    assert refused.value.response.status_code == 431


async def test_too_many_subscriptions(edge, thread):
    limit = edge.edge.context.sockets.limits.subscriptions_per_socket_max
    async with connect(url(edge)) as socket:
        for _ in range(limit):
            answer = await command(socket, "subscription.subscribe", channels=["values"])
            assert answer["type"] == "success"
        answer = await command(socket, "subscription.subscribe", channels=["values"])
        assert answer["type"] == "error"


async def test_too_many_sockets_of_one_user(settings, open_running, worker):
    few = settings.model_copy(update={"edge_sockets_per_user_max": 2})
    async with open_running(few) as edge:
        await start(edge)
        async with connect(url(edge)), connect(url(edge)):
            async with asyncio.timeout(60):
                while len(edge.edge.context.sockets.outlets) < 2:
                    await asyncio.sleep(0.01)
            async with connect(url(edge)) as third:
                assert await closed_with(third) == 4429
            async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
                body = {"channels": ["values"]}
                answer = await client.post("/threads/a/stream/events", json=body)
                assert answer.status_code == 429
                assert answer.json()["code"] == "too_many_sockets"


async def start(edge, thread="a", headers=None):
    async with httpx.AsyncClient(base_url=edge.url, timeout=60, headers=headers) as client:
        body = {"id": 1, "method": "run.start", "params": {"assistant_id": "agent", "input": {}}}
        answer = await client.post(f"/threads/{thread}/commands", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


def token(tenant="acme", user="ann", lasts_s=3600, **claims):
    payload = {"tenant": tenant, "sub": user, "exp": time.time() + lasts_s} | claims
    return jwt.encode(payload, SECRET, algorithm="HS256")


@pytest.fixture
async def guarded(settings, open_running):
    strict = settings.model_copy(update={"jwt_secret": SecretStr(SECRET)})
    async with open_running(strict) as edge:
        yield edge


def bearing(text):
    return {"Authorization": f"Bearer {text}"}


async def test_sockets_need_a_token_and_end_with_it(guarded, worker):
    await start(guarded, headers=bearing(token()))
    for bad in ({}, bearing("x.y.z"), bearing(token(lasts_s=-5)), bearing(token(tenant="a/b"))):
        async with connect(url(guarded), additional_headers=bad) as socket:
            assert await closed_with(socket) in {4401, 4403}
    no_wait_for_unknown_threads(guarded)
    async with connect(url(guarded), additional_headers=bearing(token("other"))) as socket:
        assert await closed_with(socket) == 4404  # somebody else's thread
    short = bearing(token(lasts_s=3))
    async with connect(url(guarded), additional_headers=short) as socket:
        answer = await command(socket, "subscription.subscribe", channels=ALL)
        assert answer["type"] == "success"
        assert await closed_with(socket) == 4401
    offered = ["turnstream.bearer", token()]
    async with connect(url(guarded), subprotocols=offered) as socket:
        assert socket.subprotocol == "turnstream.bearer"
        answer = await command(socket, "subscription.subscribe", channels=ALL)
        assert answer["type"] == "success"


async def test_origins(edge, thread):
    async with connect(url(edge), origin="https://evil.example") as socket:
        assert await closed_with(socket) == 4403
    async with connect(url(edge), origin=edge.url) as socket:
        answer = await command(socket, "subscription.subscribe", channels=ALL)
        assert answer["type"] == "success"


async def test_a_slow_reader_gets_everything_and_the_others_do_not_wait(
    settings, open_running, worker, monkeypatch
):
    """Eight megabytes to one that pauses: it falls behind, is refilled, and misses nothing.

    The last event holds them all once more, and the watchdog looks while it is on its way.
    """
    go = asyncio.Event()
    large = "x" * 20_000

    async def flood(turn):
        await turn.start()
        await go.wait()
        for number in range(400):
            await turn.tokens(f"{number}-{large}")
        await turn.end()

    worker.script = flood
    # the quick one alone takes its time where the machine is slow: the other is not dropped for it,
    # neither by the edge, whose stall and ping it outlasts, nor by its own client's ping
    monkeypatch.setattr(server, "PING_S", 600.0)
    monkeypatch.setattr(fanout, "_WATCH_S", 0.001)
    patient = settings.model_copy(update={"edge_stall_timeout_s": 600.0})
    async with open_running(patient) as edge:
        await start(edge)
        async with (
            connect(url(edge), max_queue=1, max_size=None, ping_interval=None) as slow,
            connect(url(edge), max_size=None, ping_interval=None) as quick,
        ):
            for socket in (slow, quick):
                await command(socket, "subscription.subscribe", channels=ALL)
            go.set()
            fast = await until_end(quick)
            sockets = edge.edge.context.sockets
            assert sockets.refills > 0
            assert max(outlet.buffered for outlet in sockets.outlets) < 2 << 20
            late = await until_end(slow)
        numbers = [
            item["params"]["data"]["delta"]["text"].partition("-")[0]
            for item in late
            if item.get("method") == "messages"
            and item["params"]["data"]["event"] == "content-block-delta"
        ]
        assert numbers == [str(number) for number in range(400)]
        assert [e["seq"] for e in fast if "seq" in e] == [e["seq"] for e in late if "seq" in e]
        assert not sockets.aborted


async def test_a_socket_that_is_given_more_than_it_takes_is_dropped(
    settings, open_running, worker, monkeypatch
):
    monkeypatch.setattr(fanout, "_WATCH_S", 0.001)
    patient = settings.model_copy(update={"edge_stall_timeout_s": 600.0})
    async with (
        open_running(patient) as edge,
        connect(url(edge), max_queue=1, max_size=None, ping_interval=None) as socket,
    ):
        sockets = edge.edge.context.sockets
        (outlet,) = sockets.outlets
        socket.transport.pause_reading()
        frame = websocket_frame(b"x" * (sockets.limits.buffer_bytes_max >> 2))
        async with asyncio.timeout(60):
            while not sockets.aborted:
                outlet.write_raw(frame)
                await asyncio.sleep(0.002)
        assert outlet.written < 64 << 20


async def test_a_socket_that_takes_nothing_is_dropped(settings, open_running, worker):
    go = asyncio.Event()

    async def flood(turn):
        await turn.start()
        await go.wait()
        for _ in range(400):
            await turn.tokens("x" * 20_000)
        await turn.end()

    worker.script = flood
    quick = settings.model_copy(update={"edge_stall_timeout_s": 1.0})
    async with open_running(quick) as edge:
        await start(edge)
        host, port = "127.0.0.1", edge.edge.port
        _, writer = await asyncio.open_connection(host, port, limit=1024)
        writer.transport.pause_reading()
        body = json.dumps({"channels": ALL}).encode()
        head = "POST /threads/a/stream/events HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        sockets = edge.edge.context.sockets
        async with asyncio.timeout(60):
            while not sockets.outlets:
                await asyncio.sleep(0.01)
        go.set()
        async with asyncio.timeout(60):
            while not sockets.aborted:
                await asyncio.sleep(0.05)
            while sockets.outlets:
                await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.sleep(0)


async def test_a_question_is_answered_over_the_socket(edge, worker):
    async def ask(turn):
        await turn.start()
        await turn.say(ev.InputRequested, interrupt_id="i" * 32, payload="1")
        await turn.end(ev.TurnInterrupted, interrupts=[ev.Interrupt(id="i" * 32, payload="1")])

    worker.script = ask
    await start(edge)
    async with connect(url(edge)) as socket:
        await command(socket, "subscription.subscribe", channels=["input", "lifecycle"])
        async with asyncio.timeout(60):
            while json.loads(await socket.recv()).get("method") != "input.requested":
                pass
        wrong = await command(socket, "input.respond", interrupt_id="j" * 32, response=1)
        assert wrong["type"] == "error"
