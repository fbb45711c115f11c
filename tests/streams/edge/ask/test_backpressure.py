"""An edge that is asked for more than there is room for, or whose servers do not answer."""

from __future__ import annotations

import asyncio
import json
import signal
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest
from edge_front import Front
from pydantic import SecretStr
from websockets.asyncio.client import connect

from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.deploy.local import LocalStack

TAKEN = (200, 202)
START = {"id": 1, "method": "run.start", "params": {"assistant_id": "agent", "input": {"n": 1}}}
SURFACES = {
    "commands": ("/threads/b/commands", START),
    "run": ("/threads/b/runs", {"assistant_id": "agent", "input": {}, "if_not_exists": "create"}),
    "chat": ("/chat", {"text": "hello", "thread_id": "b", "wait": False}),
}


async def ask(edge, surface="commands"):
    path, body = SURFACES[surface]
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        return await client.post(path, json=body)


async def ready(edge):
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        return (await client.get("/readyz")).status_code


async def until_refused(edge, code):
    """Ask until the answer is a refusal; returns how many turns were taken before."""
    taken = 0
    async with asyncio.timeout(60):
        while (answer := await ask(edge)).status_code in TAKEN:
            taken += 1
            await asyncio.sleep(0.05)
    refused(answer, code)
    return taken


async def until_taken(edge):
    """Ask until a turn is taken, whether it has begun by then or not."""
    async with asyncio.timeout(60):
        while (await ask(edge)).status_code not in TAKEN:
            await asyncio.sleep(0.05)


async def until_read(worker, count):
    """Wait until the worker has read so many commands; there are no more than these."""
    async with asyncio.timeout(60):
        while len(worker.commands) < count:
            await asyncio.sleep(0.01)
    assert len(worker.commands) == count


NEVER = "00000000-0000-4000-8000-0000000000ff"


def refused(answer, code):
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    problem = answer.json()
    assert (problem["code"], problem["retryable"]) == (code, True)


async def test_a_full_ledger_refuses_turns_until_there_is_room(settings, open_running, worker):
    go_on = asyncio.Event()

    async def held(turn):
        await turn.start()
        await go_on.wait()
        await turn.end()

    worker.script = held
    narrow = settings.model_copy(update={"open_turns_max": 1})
    async with open_running(narrow) as edge:
        assert (await ask(edge)).status_code == 200
        taken = 1 + await until_refused(edge, "overloaded")
        await until_read(worker, taken)
        for surface in SURFACES:
            refused(await ask(edge, surface), "overloaded")
        async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
            body = {"assistant_id": "agent", "input": "hi", "if_not_exists": "create"}
            refused(await client.post(f"/threads/{NEVER}/runs", json=body), "overloaded")
            assert (await client.get(f"/threads/{NEVER}")).status_code == 404, "it was made"
        async with connect(f"{edge.ws}/threads/b/stream/events") as socket:
            await socket.send(json.dumps(START))
            answer = json.loads(await socket.recv())
            assert (answer["type"], answer["id"]) == ("error", 1)
            assert answer["message"].startswith("overloaded: ")
        async with connect(f"{edge.ws}/ws") as socket:
            await socket.send(json.dumps({"type": "chat", "text": "hi", "thread_id": "b"}))
            answer = json.loads(await socket.recv())
            assert (answer["type"], answer["code"]) == ("error", "overloaded")
            assert answer["retryable"]
        # a cancel makes room: it is taken, and the first one that is, after all of the above
        run_id = worker.commands[0].turn_id
        cancel = {"id": 2, "method": "run.cancel", "params": {"run_id": run_id}}
        async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
            answer = await client.post("/threads/b/commands", json=cancel)
            assert answer.status_code == 200, answer.text
        await until_read(worker, taken + 1)
        assert type(worker.commands[taken]).__name__ == "CancelTurn"
        go_on.set()
        await until_taken(edge)


@pytest.mark.parametrize(
    "path",
    ["/runs", "/runs/wait", "/runs/stream", "/runs/batch", "/chat"]
    + [f"/threads/b{path}" for path in ("/runs", "/runs/wait", "/runs/stream")],
)
async def test_starts_are_refused_before_the_caller_is_known_and_the_body_read(
    settings, open_running, worker, path
):
    await worker.pool.execute("UPDATE tally SET unclosed = 5 WHERE bucket = 0")
    full = settings.model_copy(
        update={
            "open_turns_max": 5,
            "jwt_secret": SecretStr("0123456789abcdefghijklmnopqrstuvwxyz"),
        }
    )
    body = {"content": "[", "headers": {"content-type": "application/json"}}
    async with (
        open_running(full) as edge,
        httpx.AsyncClient(base_url=edge.url, timeout=60) as client,
    ):
        async with asyncio.timeout(60):
            while (answer := await client.post(path, **body)).status_code == 400:
                await asyncio.sleep(0.01)  # it has not looked yet
        refused(answer, "overloaded")
        assert (await client.post(f"/threads/b/runs/{NEVER}/cancel")).status_code == 401
        await worker.pool.execute("UPDATE tally SET unclosed = 0 WHERE bucket = 0")
        async with asyncio.timeout(60):
            while (answer := await client.post(path, **body)).status_code == 503:
                await asyncio.sleep(0.01)
        assert answer.status_code == 400


async def test_a_database_that_is_cut_off_refuses_turns_until_it_is_back(
    settings, open_running, worker
):
    parts = urlsplit(settings.database_url.get_secret_value())
    async with Front() as front:
        front.to(parts.port)
        host = parts.netloc.replace(f":{parts.port}", f":{front.port}")
        through = SecretStr(urlunsplit(parts._replace(netloc=host)))
        cut_off = settings.model_copy(update={"database_url": through, "edge_start_wait_s": 0.2})
        async with open_running(cut_off) as edge:
            assert (await ask(edge)).status_code == 200
            await worker.idle()
            front.cut()
            taken = 1 + await until_refused(edge, "database_unavailable")
            await until_read(worker, taken)
            refused(await ask(edge), "database_unavailable")
            async with connect(f"{edge.ws}/threads/b/stream/events") as socket:
                await socket.send(json.dumps(START))
                answer = json.loads(await asyncio.wait_for(socket.recv(), 60))
                assert answer["message"].startswith("database_unavailable: ")
            front.to(parts.port)
            await until_taken(edge)
            await until_read(worker, taken + 1)


@pytest.mark.timeout(180)
async def test_a_kafka_that_does_not_answer_refuses_turns_until_it_does(
    settings, open_running, make_worker
):
    with LocalStack(parts=("kafka",)) as stack:
        own = settings.model_copy(update={"kafka_bootstrap": stack.kafka_bootstrap})
        async with TopicAdmin(stack.kafka_bootstrap) as admin:
            await admin.create(own.topics.all(own.tenants, own.partitions))
        async with make_worker(own).run() as worker, open_running(own) as edge:
            assert (await ask(edge)).status_code == 200
            await worker.idle()
            kafka = stack.processes["kafka"]
            kafka.send(signal.SIGSTOP)
            try:
                async with asyncio.timeout(60):
                    while edge.edge.tail.lag_s < 6:
                        await asyncio.sleep(0.05)
                assert await ready(edge) == 503
                for surface in SURFACES:
                    refused(await ask(edge, surface), "kafka_unavailable")
            finally:
                kafka.send(signal.SIGCONT)
            await until_taken(edge)
            await until_read(worker, 2)
