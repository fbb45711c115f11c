"""The plain endpoints against the whole service: chat, its stream, state, history, the socket."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def http(service: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(service.url) as session:
        yield session


async def sse(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any, int]]:
    event: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            yield event["event"], json.loads(event["data"]), int(event["id"])
            event = {}


async def test_a_message_and_its_answer(http: aiohttp.ClientSession) -> None:
    async with http.post("/chat", json={"text": "tokens=4", "idempotency_key": "k"}) as response:
        assert response.status == 200
        answer = await response.json()
    assert answer["status"] == "success"
    assert answer["text"]
    thread = {"thread_id": answer["thread_id"]}
    async with http.post("/chat", json={"text": "tokens=2", **thread}) as response:
        assert (await response.json())["text"]
    async with http.get("/state", params=thread) as response:
        state = await response.json()
    assert [one["type"] for one in state["values"]["messages"]] == ["human", "ai"] * 2
    async with http.get("/history", params=thread | {"limit": "3"}) as response:
        history = await response.json()
    assert len(history) == 3
    assert history[0]["values"] == state["values"]
    before = {"before": history[0]["checkpoint"]["checkpoint_id"]}
    async with http.get("/history", params=thread | before) as response:
        assert (await response.json())[0] == history[1]


async def test_questions_and_failures_are_part_of_the_answer(http: aiohttp.ClientSession) -> None:
    async with http.post("/chat", json={"text": "hi", "graph": "approval"}) as response:
        asked = await response.json()
    assert asked["status"] == "interrupted"
    assert asked["questions"][0]["value"]["question"] == "May I call population?"
    async with http.post("/chat", json={"text": "error=400"}) as response:
        failed = await response.json()
    assert failed["status"] == "error"
    assert failed["error"]["code"]


async def test_a_stream_and_its_resume(http: aiohttp.ClientSession) -> None:
    async with http.post("/threads", json={"thread_id": "s"}) as response:
        assert response.status == 200
    seen: list[tuple[str, Any, int]] = []
    async with http.get("/chat/stream", params={"thread_id": "s"}) as stream:
        text = 'tool=current_time({"zone":"Asia/Seoul"}) tokens=8 rate=60'
        said = {"text": text, "thread_id": "s"}
        async with http.post("/chat", json=said) as response:
            answer = await response.json()
        async for event in sse(stream):
            seen.append(event)
            if event[0] == "end":
                break
    names = [name for name, _, _ in seen]
    assert names[:2] == ["opened", "started"]
    tools = [data["state"] for name, data, _ in seen if name == "tool"]
    assert tools == ["running", "finished"]
    assert "".join(data["text"] for name, data, _ in seen if name == "token") == answer["text"]
    assert seen[-1][1]["text"] == answer["text"]
    assert all(data["run_id"] == answer["run_id"] for _, data, _ in seen[1:])
    opened, in_tools, in_message = seen[0][2], seen[3][2], seen[len(seen) - 5][2]
    assert seen[-5][0] == seen[-4][0] == "token"
    for middle in (opened, in_tools, in_message):
        rest: list[tuple[str, Any, int]] = []
        asked = {"thread_id": "s", "since": str(middle)}
        async with http.get("/chat/stream", params=asked) as stream:
            async for event in sse(stream):
                rest.append(event)
                if event[0] == "end":
                    break
        assert rest == [event for event in seen if event[2] > middle]


async def test_the_socket(http: aiohttp.ClientSession) -> None:
    async with http.ws_connect("/ws") as ws:
        await ws.send_json({"type": "ping", "id": 1})
        assert await ws.receive_json() == {"type": "pong", "id": 1}
        await ws.send_json({"type": "chat", "text": "tokens=5", "id": "c"})
        seen = [await ws.receive_json()]
        while seen[-1]["type"] != "end":
            seen.append(await ws.receive_json())
        accepted = next(one for one in seen if one["type"] == "accepted")
        assert accepted["id"] == "c"
        text = "".join(one["text"] for one in seen if one["type"] == "token")
        assert text == seen[-1]["text"] != ""
        assert {one["thread_id"] for one in seen} == {accepted["thread_id"]}

        await ws.send_json({"type": "chat", "text": "hi", "graph": "approval", "id": "q"})
        asked: dict[str, Any] = {}
        while asked.get("type") != "end":
            asked = await ws.receive_json()
        answers = {asked["questions"][0]["id"]: True}
        resume = {"type": "resume", "thread_id": asked["thread_id"]}
        await ws.send_json(resume | {"answers": answers, "id": "r"})
        ended: dict[str, Any] = {}
        resolved: list[dict[str, Any]] = []
        while ended.get("type") != "end" or ended["run_id"] == asked["run_id"]:
            ended = await ws.receive_json()
            resolved += [ended] if ended["type"] == "resolved" else []
        (closed,) = resolved
        assert closed["id"] in answers
        assert (closed["run_id"], closed["actor"]) == (ended["run_id"], "dev")
        assert ended["text"] == "I looked it up: Seoul has 9.4 million inhabitants."

        await ws.send_json({"type": "chat", "text": "tokens=2000 rate=50", "id": "l"})
        token: dict[str, Any] = {}
        while token.get("type") != "token":
            token = await ws.receive_json()
        cancel = {"type": "cancel", "thread_id": token["thread_id"], "run_id": token["run_id"]}
        await ws.send_json(cancel | {"id": "x"})
        while ended.get("run_id") != token["run_id"] or ended["type"] != "end":
            ended = await ws.receive_json()
        assert ended["status"] == "interrupted"
        assert ended["text"]


async def test_bad_frames(http: aiohttp.ClientSession) -> None:
    async with http.ws_connect("/ws") as ws:
        for frame, code in (
            ("not json", "invalid_frame"),
            ('{"type": "dance"}', "invalid_frame"),
            ('{"type": "chat", "text": ""}', "invalid_request"),
            ('{"type": "chat", "text": "a\\u0000b"}', "invalid_request"),
            ('{"type": "chat", "text": "x", "graph": "nobody"}', "assistant_not_found"),
            ('{"type": "subscribe", "thread_id": "nobody"}', "thread_not_found"),
            ('{"type": "subscribe", "thread_id": "a\\nb"}', "invalid_thread_id"),
            ('{"type": "cancel", "thread_id": "nobody", "run_id": "x"}', "thread_not_found"),
            ("[" * 5000, "invalid_frame"),
        ):
            await ws.send_str(frame)
            answer = await asyncio.wait_for(ws.receive_json(), 60)
            assert (answer["type"], answer["code"]) == ("error", code), frame
        await ws.send_bytes(b"\xff\xfe")
        assert (await ws.receive_json())["code"] == "invalid_frame"
        await ws.send_json({"type": "ping"})
        assert (await ws.receive_json())["type"] == "pong"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "field"),
    [
        ("POST", "/chat", b"{", 400, "invalid_json", "body"),
        ("POST", "/chat", b'{"text": 7}', 422, "invalid_request", "body.text"),
        ("POST", "/chat", b'{"text": "a\\u0000b"}', 422, "invalid_request", "body.text"),
        ("POST", "/chat", b'{"text": "\\ud800"}', 422, "invalid_request", "body.text"),
        ("POST", "/chat", b'{"text": "  "}', 422, "input_missing", "text"),
        ("POST", "/threads", b'{"metadata": {"a": "\\u0000"}}', 422, "invalid_request", None),
        ("POST", "/threads", b'{"thread_id": "' + b"x" * 10_000 + b'"}', 422, None, "thread_id"),
        ("GET", "/threads/%00", b"", 422, "invalid_request", "path.thread_id"),
        ("GET", "/threads/" + "x" * 10_000, b"", 422, "invalid_thread_id", "thread_id"),
        ("GET", "/threads/nobody", b"", 404, "thread_not_found", None),
        ("GET", "/nothing", b"", 404, "not_found", None),
        ("PUT", "/chat", b"", 405, "method_not_allowed", None),
        ("POST", "/chat", b'{"text": "' + b"x" * 300_000 + b'"}', 413, "text_too_long", "text"),
        ("POST", "/chat", b"x" * (3 << 20), 413, "body_too_large", None),
        ("GET", "/chat/stream?thread_id=nobody&since=-1", b"", 422, None, "query.since"),
    ],
)
async def test_bad_requests(
    http: aiohttp.ClientSession,
    method: str,
    path: str,
    body: bytes,
    status: int,
    code: str | None,
    field: str | None,
) -> None:
    headers = {"content-type": "application/json"}
    async with http.request(
        method, path, data=io.BytesIO(body) if body else None, headers=headers
    ) as response:
        problem = await response.json(content_type=None)
        assert (response.status, problem["status"]) == (status, status), problem
        assert response.content_type == "application/problem+json"
        assert code is None or problem["code"] == code
        assert field is None or problem["field"] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("interrupt_before", ["plan"]),
        ("interrupt_after", "*"),
        ("webhook", "http://example.com"),
        ("after_seconds", 5),
        ("on_completion", "delete"),
        ("command", {"goto": "plan"}),
        ("stream_mode", "events"),
        ("checkpoint_id", "1ef4a9b8-e6fb-67b1-8001-abd5184439d1"),
    ],
)
async def test_what_is_not_there_is_refused_by_name(
    edge_alone: Any, field: str, value: Any
) -> None:
    body = {"assistant_id": "agent", "input": "hi", field: value, "if_not_exists": "create"}
    async with (
        aiohttp.ClientSession(edge_alone.url) as http,
        http.post("/threads/t/runs/stream", json=body) as response,
    ):
        problem = await response.json(content_type=None)
    assert response.status == 422, problem
    assert problem["field"].split(".")[0] == field
    assert problem["code"].startswith("unsupported")


async def test_without_a_worker_what_is_asked_for_stays_pending(edge_alone: Any) -> None:
    async with aiohttp.ClientSession(edge_alone.url) as http:
        async with http.post("/chat", json={"text": "hi"}) as response:
            assert response.status == 202
            answer = await response.json()
            assert response.headers["Content-Location"].endswith(answer["run_id"])
        assert answer["status"] == "pending"
        body = {"assistant_id": "agent", "input": "hi"}
        async with http.post("/runs", json=body) as response:
            run = await response.json()
        assert (response.status, run["status"]) == (200, "pending")


@pytest.mark.parametrize(
    ("on_disconnect", "tokens", "status"),
    [("cancel", 10_000, "interrupted"), (None, 40, "success")],
)
async def test_a_disconnect_is_a_stop_only_if_asked_for(
    http: aiohttp.ClientSession, on_disconnect: str | None, tokens: int, status: str
) -> None:
    said = f"tokens={tokens} rate=30"
    body = {"assistant_id": "agent", "input": said, "on_disconnect": on_disconnect}
    async with http.post("/runs/stream", json=body | {"stream_mode": "messages-tuple"}) as stream:
        place = stream.headers["Content-Location"]
        async for name, _, _ in sse(stream):
            if name == "messages":
                break
        stream.close()
    found = ""
    async with asyncio.timeout(60):
        while found in ("", "running"):
            async with http.get(place) as response:
                found = (await response.json())["status"]
    assert found == status
