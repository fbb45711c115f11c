"""Busy policies and answers on every surface: stock SDK, thread stream, chat, socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import APIStatusError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG = 'tool=current_time({"zone":"Asia/Seoul"}) tokens=2000 rate=50'


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@pytest.fixture
async def client(service: Any) -> AsyncIterator[Any]:
    async with get_client(url=service.url) as made:
        yield made


@pytest.fixture
async def http(service: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(service.url) as session:
        yield session


async def begun(client: Any, thread_id: str, run_id: str) -> list[Any]:
    """Read a run along until its second model call speaks; its parts so far."""
    parts: list[Any] = []
    async for part in client.runs.join_stream(
        thread_id, run_id, stream_mode=["messages-tuple", "values"]
    ):
        parts.append(part)
        texts = [p.data[0] for p in parts if p.event == "messages"]
        if texts and texts[-1].get("content") and texts[-1]["type"] == "AIMessageChunk":
            break
    return parts


async def test_interrupt_by_the_sdk(client: Any) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    first = await client.runs.create(thread_id, "agent", input=user(LONG))
    await begun(client, thread_id, first["run_id"])
    values = await client.runs.wait(
        thread_id, "agent", input=user("tokens=3"), multitask_strategy="interrupt"
    )
    kinds = [message["type"] for message in values["messages"]]
    assert kinds == ["human", "ai", "tool", "ai", "human", "ai"]
    run = await client.runs.get(thread_id, first["run_id"])
    assert run["status"] == "interrupted"
    state = await client.threads.get_state(thread_id)
    assert (state["values"], state["next"]) == (values, [])


async def test_rollback_by_the_sdk(client: Any) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    before = await client.runs.wait(thread_id, "agent", input=user("tokens=2"))
    first = await client.runs.create(thread_id, "agent", input=user(LONG))
    await begun(client, thread_id, first["run_id"])
    reading = asyncio.create_task(whole(client, thread_id, first["run_id"]))
    events = [
        part
        async for part in client.runs.stream(
            thread_id, "agent", input=user("tokens=3"), multitask_strategy="rollback"
        )
    ]
    values = [part.data for part in events if part.event == "values"][-1]
    assert values["messages"][:2] == before["messages"]
    assert [message["type"] for message in values["messages"]] == ["human", "ai"] * 2
    # who had read along was told to forget it all, and what the state is now
    shown = await reading
    assert shown[-1].event == "end"
    live: set[str] = set()
    for part in shown:
        if part.event == "messages":
            message = part.data[0]
            (live.discard if message["type"] == "remove" else live.add)(message["id"])
    assert live == set()
    last = [part.data for part in shown if part.event == "values"][-1]
    assert last["messages"][:2] == before["messages"]  # the next run may have begun
    # the run is not there any more, nor is anything of it
    with pytest.raises(APIStatusError) as gone:
        await client.runs.get(thread_id, first["run_id"])
    assert gone.value.response.status_code == 404
    assert len(await client.runs.list(thread_id)) == 2
    history = await client.threads.get_history(thread_id, limit=100)
    assert {state["metadata"]["run_id"] for state in history}.isdisjoint({first["run_id"]})
    assert history[0]["values"] == values


async def whole(client: Any, thread_id: str, run_id: str) -> list[Any]:
    """Read a run along from its beginning to its end."""
    modes = ["messages-tuple", "values"]
    stream = client.runs.join_stream(thread_id, run_id, stream_mode=modes, last_event_id="-1")
    return [part async for part in stream]


async def test_a_cancel_that_rolls_back(client: Any) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    before = await client.runs.wait(thread_id, "agent", input=user("tokens=2"))
    first = await client.runs.create(thread_id, "agent", input=user(LONG))
    await begun(client, thread_id, first["run_id"])
    await client.runs.cancel(thread_id, first["run_id"], wait=True, action="rollback")
    state = await client.threads.get_state(thread_id)
    assert state["values"] == before
    assert (await client.threads.get(thread_id))["status"] == "idle"


async def test_chat_and_the_socket(http: aiohttp.ClientSession) -> None:
    async with http.post("/chat", json={"text": LONG, "wait": False}) as response:
        first = await response.json()
    thread = {"thread_id": first["thread_id"]}
    async with http.post(
        "/chat", json={"text": "tokens=2", "on_busy": "reject", **thread}
    ) as response:
        problem = await response.json(content_type=None)
    assert (response.status, problem["code"]) == (409, "thread_busy")
    async with http.post(
        "/chat", json={"text": "tokens=2", "on_busy": "dance", **thread}
    ) as response:
        problem = await response.json(content_type=None)
    assert (response.status, problem["field"]) == (422, "body.on_busy")

    async with asyncio.timeout(60), http.ws_connect("/ws") as ws:
        await ws.send_json({"type": "subscribe", "id": "s", **thread})
        seen: list[dict[str, Any]] = []

        async def until(wanted: Any) -> dict[str, Any]:
            while not (seen and wanted(seen[-1])):
                seen.append(await ws.receive_json())
            return seen[-1]

        await until(lambda one: one["type"] == "token")
        refused = {"type": "chat", "text": "x", "on_busy": "reject", "id": "r", **thread}
        await ws.send_json(refused)
        refusal = await until(lambda one: one.get("id") == "r")
        assert (refusal["type"], refusal["code"]) == ("error", "thread_busy")
        await ws.send_json(
            {"type": "chat", "text": "tokens=2", "on_busy": "rollback", "id": "b", **thread}
        )
        rewind = await until(lambda one: one["type"] == "rewind")
        assert rewind["run_id"] == first["run_id"]
        said = {one["message_id"] for one in seen if one["type"] in ("token", "message")}
        assert said <= set(rewind["message_ids"]) != set()
        over = await until(lambda one: one["type"] == "end")
        assert (over["run_id"], over["text"]) == (first["run_id"], "")
        over = await until(lambda one: one["type"] == "end" and one["run_id"] != first["run_id"])
        assert over["status"] == "success"
    async with http.get("/state", params=thread) as response:
        messages = (await response.json())["values"]["messages"]
    assert [message["type"] for message in messages] == ["human", "ai"]


async def test_the_thread_stream(http: aiohttp.ClientSession) -> None:
    """The protocol has no policy; the JavaScript SDK sends one under two names."""

    async def start(text: str, **strategy: str) -> dict[str, Any]:
        params = {"assistant_id": "agent", "input": user(text), **strategy}
        command = {"id": 1, "method": "run.start", "params": params}
        async with http.post("/threads/t1/commands", json=command) as response:
            return await response.json(content_type=None)

    first = (await start(LONG))["result"]["run_id"]
    refused = await start("tokens=2", multitask_strategy="reject")
    assert refused.get("type") == "error" or refused["status"] == 409
    assert (await start("tokens=2", multitask_strategy="dance")).get("type") != "success"
    second = (await start("tokens=2", multitaskStrategy="interrupt"))["result"]["run_id"]
    async with http.get(f"/threads/t1/runs/{second}/join") as response:
        values = await response.json()
    assert [message["type"] for message in values["messages"]][-2:] == ["human", "ai"]
    async with http.get(f"/threads/t1/runs/{first}") as response:
        assert (await response.json())["status"] == "interrupted"


async def test_answers_that_do_not_fit(asking: Any) -> None:
    async with (
        asyncio.timeout(60),
        get_client(url=asking.url) as client,
        aiohttp.ClientSession(asking.url) as http,
    ):
        thread = (await client.threads.create())["thread_id"]
        asked = await client.runs.wait(thread, "several", input=user("go"))
        questions = {one["value"]["question"]: one for one in asked["__interrupt__"]}
        count, decide = questions["count"]["id"], questions["decide"]["id"]
        assert questions["count"]["response_schema"]["required"] == ["count"]

        # REST, and what the SDK makes of it
        async def resume(answers: dict[str, Any]) -> dict[str, Any]:
            body = {"assistant_id": "several", "command": {"resume": answers}}
            async with http.post(f"/threads/{thread}/runs/wait", json=body) as response:
                return await response.json(content_type=None)

        problem = await resume({count: {"count": "x"}})
        assert (problem["status"], problem["code"]) == (422, "invalid_answer")
        assert problem["field"] == f"answers.{count}.count"
        problem = await resume({"f" * 32: 1})
        assert (problem["status"], problem["code"]) == (409, "unknown_interrupt")
        with pytest.raises(httpx.HTTPStatusError, match="422"):
            await client.runs.wait(thread, "several", command={"resume": {count: {"count": "x"}}})

        # the thread stream
        respond = {"interrupt_id": decide, "namespace": [], "response": {"decision": "maybe"}}
        command = {"id": 4, "method": "input.respond", "params": respond}
        async with http.post(f"/threads/{thread}/commands", json=command) as response:
            refused = await response.text()
        assert "invalid_answer" in refused

        # the socket
        async with http.ws_connect("/ws") as ws:
            answers = {decide: {"decision": "yes"}, count: {"count": 1.5}}
            frame = {"type": "resume", "thread_id": thread, "answers": answers, "id": 9}
            await ws.send_json(frame)
            while (told := await ws.receive_json()).get("id") != 9:
                pass
            assert (told["code"], told["field"]) == ("invalid_answer", f"answers.{count}.count")
            answers[count] = {"count": 2}
            await ws.send_json(frame)
            while (told := await ws.receive_json()).get("id") != 9:
                pass
            assert told["type"] == "accepted"
            await client.runs.join(thread, told["run_id"])
        # who answers now is too late
        state = await client.threads.get_state(thread)
        assert state["next"] == []
        assert (await resume({decide: 1, count: 2}))["status"] == 409
