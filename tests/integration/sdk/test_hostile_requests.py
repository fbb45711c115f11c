"""What no worker would take is refused by the edge, on every way in, and nothing is published.

There is no worker: whatever is accepted here would be pending for ever.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from turnstream.schemas.limits import DEPTH_MAX

JSON = {"content-type": "application/json"}


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def run(field: str, value: str) -> str:
    rest = "" if field == "input" else '"input": "x", '
    return f'{{"assistant_id": "agent", {rest}"if_not_exists": "create", "{field}": {value}}}'


def command(method: str, params: str) -> str:
    return f'{{"id": 1, "method": "{method}", "params": {params}}}'


def ways(value: str) -> list[tuple[str, str, str]]:
    """Return every place where a request may hold a JSON value of a client's own."""
    of = f'{{"a": {value}}}'
    return [
        ("POST", "/threads", f'{{"metadata": {of}}}'),
        ("PATCH", "/threads/t", f'{{"metadata": {of}}}'),
        ("POST", "/threads/search", f'{{"metadata": {of}}}'),
        ("POST", "/threads/count", f'{{"metadata": {of}}}'),
        ("POST", "/threads/t/history", f'{{"metadata": {of}}}'),
        ("POST", "/threads/t/state/checkpoint", f'{{"checkpoint": {{"checkpoint_map": {of}}}}}'),
        ("POST", "/assistants/search", f'{{"metadata": {of}}}'),
        ("POST", "/threads/t/runs", run("input", value)),
        ("POST", "/threads/t/runs/stream", run("input", value)),
        ("POST", "/threads/t/runs/wait", run("input", value)),
        ("POST", "/runs", run("config", of)),
        ("POST", "/runs/stream", run("metadata", of)),
        ("POST", "/runs/wait", run("something", value)),
        ("POST", "/runs/batch", f"[{run('input', value)}]"),
        (
            "POST",
            "/threads/t/runs/wait",
            f'{{"assistant_id": "agent", "command": {{"resume": {of}}}}}',
        ),
        ("POST", "/chat", f'{{"text": "x", "something": {value}}}'),
        (
            "POST",
            "/threads/t/commands",
            command("run.start", f'{{"assistant_id": "agent", "input": {value}}}'),
        ),
        (
            "POST",
            "/threads/t/commands",
            command("run.start", f'{{"assistant_id": "agent", "input": "x", "config": {of}}}'),
        ),
        (
            "POST",
            "/threads/t/commands",
            command("run.start", f'{{"assistant_id": "agent", "input": "x", "metadata": {of}}}'),
        ),
        (
            "POST",
            "/threads/t/commands",
            command("input.respond", f'{{"interrupt_id": "a", "response": {value}}}'),
        ),
        ("POST", "/threads/t/stream/events", f'{{"channels": ["values"], "something": {value}}}'),
    ]


async def answer(
    http: aiohttp.ClientSession, method: str, path: str, body: bytes
) -> tuple[int, Any]:
    async with http.request(method, path, data=body, headers=JSON) as response:
        return response.status, await response.json(content_type=None)


async def published(scene: Any) -> int:
    """Return how many commands lie on the edges' topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=scene.settings.kafka_bootstrap)
    await consumer.start()
    try:
        parts = [TopicPartition(scene.topics.turns, p) for p in range(scene.settings.partitions)]
        return sum((await consumer.end_offsets(parts)).values())
    finally:
        await consumer.stop()


async def test_json_that_is_too_deep_is_refused_on_every_way_in(edge_alone: Any) -> None:
    async with aiohttp.ClientSession(edge_alone.url) as http:
        await answer(http, "POST", "/threads", b'{"thread_id": "t"}')
        for levels in (DEPTH_MAX + 10, 600, 500_000):
            for method, path, text in ways(deep(levels)):
                status, problem = await answer(http, method, path, text.encode())
                assert (status, problem["code"]) == (422, "too_deep"), (path, text[:80], problem)
        # just above the limit: seen by the rules for the field
        for method, path, text in ways(deep(DEPTH_MAX + 1))[7:11]:
            status, problem = await answer(http, method, path, text.encode())
            assert (status, problem["code"]) == (422, "invalid_request"), problem
        for odd in (deep(600).encode("utf-16"), deep(600).encode("utf-32"), b"[\0" * 600):
            status, problem = await answer(http, "POST", "/runs/wait", odd)
            assert (status, problem["code"]) == (400, "invalid_json"), problem
        async with http.get("/runs/x/stream", params={"stream_mode": deep(3000)}) as response:
            assert response.status == 422
        async with http.get("/ok") as response:
            assert response.status == 200
    assert await published(edge_alone.scene) == 0


async def test_a_frame_that_is_too_deep_or_odd_leaves_the_socket_open(edge_alone: Any) -> None:
    frames = [
        (f'{{"type": "chat", "text": "x", "something": {deep(600)}}}', "too_deep"),
        (f'{{"type": "resume", "thread_id": "t", "answers": {{"a": {deep(600)}}}}}', "too_deep"),
        (f'{{"type": "ping", "id": {10**40}}}', "invalid_frame"),
        ('{"type": "subscribe", "thread_id": "t", "since": 1' + "0" * 300 + "}", "invalid_cursor"),
        ('{"type": "chat", "text": "x", "expires_at": ' + "9" * 300 + "}", "invalid_request"),
        ('{"type": "chat", "text": "x", "thread_id": "a\ufffdb"}', "invalid_thread_id"),
        ('{"type": "chat", "text": "x", "idempotency_key": "a\ufffdb"}', "invalid_idempotency_key"),
        (json.dumps({"type": "chat", "text": "x" * 200_001}), "text_too_long"),
    ]
    async with aiohttp.ClientSession(edge_alone.url) as http, http.ws_connect("/ws") as ws:
        for frame, code in frames:
            await ws.send_str(frame)
            said = await asyncio.wait_for(ws.receive_json(), 60)
            assert (said["type"], said["code"]) == ("error", code), frame[:80]
        await ws.send_json({"type": "ping"})
        assert (await asyncio.wait_for(ws.receive_json(), 60))["type"] == "pong"
    assert await published(edge_alone.scene) == 0


LONG = {"messages": [{"role": "user", "content": "x" * 250_000}]}
START = {"assistant_id": "agent", "if_not_exists": "create"}


def longer(field: str, value: Any) -> dict[str, Any]:
    return START | {"input": "x"} | {field: value}


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/runs/wait", longer("input", "x" * 200_001), "text_too_long"),
        ("/runs/wait", longer("input", {"a": "x" * 200_001}), "text_too_long"),
        ("/runs", longer("input", LONG), "text_too_long"),
        ("/threads/new/runs", longer("input", LONG), "text_too_long"),
        ("/threads/new/runs/stream", longer("input", LONG), "text_too_long"),
        ("/runs/batch", [longer("input", LONG)], "text_too_long"),
        ("/runs", longer("config", {"tags": ["x" * 200_000]}), "config_too_long"),
        ("/runs", longer("metadata", {"a": "x" * 65_530}), "metadata_too_large"),
        ("/chat", {"text": "x" * 200_001, "thread_id": "new"}, "text_too_long"),
        (
            "/threads/new/commands",
            {"id": 1, "method": "run.start", "params": longer("input", LONG)},
            "text_too_long",
        ),
        ("/threads", {"thread_id": "new", "metadata": {"a": "x" * 65_530}}, "metadata_too_large"),
    ],
)
async def test_one_measure_of_length_on_every_way_in(
    edge_alone: Any, path: str, body: Any, code: str
) -> None:
    async with aiohttp.ClientSession(edge_alone.url) as http:
        status, problem = await answer(http, "POST", path, json.dumps(body).encode())
        assert (status, problem["code"]) == (413, code)
        assert problem["field"] in {"text", "input", "config", "metadata"}
        async with http.get("/threads/new") as response:
            assert response.status == 404, "a thread was made for what was refused"
    assert await published(edge_alone.scene) == 0


SEARCHES = [
    ("/threads/search", "sort_by", "color"),
    ("/threads/search", "order_by", "created_at"),
    ("/threads/search", "user_id", "kim"),
    ("/threads/count", "sort_by", "created_at"),
    ("/assistants/search", "sort_by", "color"),
    ("/assistants/search", "graph", "agent"),
    ("/assistants/count", "version", 1),
    ("/threads/t/history", "checkpoint_ns", ""),
]

NOT_DONE = [
    ("checkpoint_id", "1ef4a9b8-e6fb-67b1-8001-abd5184439d1"),
    ("checkpoint", {"checkpoint_id": "1ef4a9b8-e6fb-67b1-8001-abd5184439d1"}),
    ("interrupt_before", ["plan"]),
    ("interruptBefore", ["plan"]),
    ("interrupt_after", "*"),
    ("webhook", "http://example.com"),
    ("after_seconds", 5),
    ("on_completion", "delete"),
    ("command", {"resume": 1}),
    ("forkFrom", "1ef4a9b8-e6fb-67b1-8001-abd5184439d1"),
    ("config", {"configurable": {"checkpoint_id": "1ef4a9b8-e6fb-67b1-8001-abd5184439d1"}}),
]


async def test_what_is_not_known_or_not_done_is_refused_by_name(edge_alone: Any) -> None:
    async with aiohttp.ClientSession(edge_alone.url) as http:
        await answer(http, "POST", "/threads", b'{"thread_id": "t"}')
        for path, field, value in SEARCHES:
            status, problem = await answer(http, "POST", path, json.dumps({field: value}).encode())
            assert (status, problem["field"]) == (422, f"body.{field}"), (path, problem)
        for path in ("/threads/search", "/assistants/search", "/threads/t/history"):
            body = json.dumps({"select": ["values"] * 101}).encode()
            status, problem = await answer(http, "POST", path, body)
            assert (status, problem["field"]) == (422, "body.select"), (path, problem)
        for field, value in NOT_DONE:
            params = {"assistant_id": "agent", "input": {"messages": []}, field: value}
            start = {"id": 1, "method": "run.start", "params": params}
            status, problem = await answer(
                http, "POST", "/threads/t/commands", json.dumps(start).encode()
            )
            assert (status, problem["code"]) == (422, "unsupported"), (field, problem)
            said = problem["field"].replace("_", "").lower()
            assert said.startswith(field.replace("_", "").lower()) or field == "checkpoint"
        null = {"assistant_id": "agent", "input": None}
        for path, body in (
            ("/threads/t/commands", {"id": 1, "method": "run.start", "params": null}),
            ("/threads/t/runs", null),
        ):
            status, problem = await answer(http, "POST", path, json.dumps(body).encode())
            assert (status, problem["code"]) == (422, "input_missing")
        # an empty input beside an answer is none
        for empty in ({}, None, [], ""):
            body = {"assistant_id": "agent", "input": empty, "command": {"resume": "yes"}}
            status, problem = await answer(
                http, "POST", "/threads/t/runs", json.dumps(body).encode()
            )
            assert (status, problem["code"]) == (409, "no_interrupt")
    assert await published(edge_alone.scene) == 0


async def test_metadata_of_a_thread_grows_no_further_than_its_bound(edge_alone: Any) -> None:
    async with aiohttp.ClientSession(edge_alone.url) as http:
        await answer(http, "POST", "/threads", b'{"thread_id": "t"}')
        statuses = []
        for number in range(8):
            body = json.dumps({"metadata": {f"k{number}": "x" * 10_000}}).encode()
            status, _ = await answer(http, "PATCH", "/threads/t", body)
            statuses.append(status)
        assert statuses == [200] * 6 + [413] * 2
        # and the thread still runs
        status, _ = await answer(
            http, "POST", "/threads/t/runs", json.dumps(START | {"input": "x"}).encode()
        )
        assert status == 200


async def test_a_list_of_threads_counts_what_is_selected_of_them(edge_alone: Any) -> None:
    await edge_alone.scene.db.execute(
        """
        INSERT INTO thread_info (thread_key, metadata)
        SELECT 'default/' || i, jsonb_build_object('a', repeat('x', 60000), 'kind', 'long')
          FROM generate_series(1, 300) i
        """
    )
    async with aiohttp.ClientSession(edge_alone.url) as http:
        for more, status in (
            ({}, 413),
            ({"select": ["thread_id", "metadata"]}, 413),
            ({"select": ["thread_id", "status"]}, 200),
        ):
            asked = json.dumps({"limit": 300, "metadata": {"kind": "long"}, **more}).encode()
            given, found = await answer(http, "POST", "/threads/search", asked)
            assert given == status, (more, found)
            if given == 413:
                assert found["code"] == "answer_too_large"
            else:
                assert len(found) == 300
                assert all(set(one) == {"thread_id", "status"} for one in found)
