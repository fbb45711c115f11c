"""The stock SDK against the whole service: run-scoped routes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import APIStatusError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SEOUL = 'tool=current_time({"zone":"Asia/Seoul"})'


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def merged(parts: list[Any]) -> dict[str, str]:
    """The texts that a client of `messages-tuple` ends up with, by message id."""
    texts: dict[str, str] = {}
    for part in parts:
        if part.event == "messages":
            message = part.data[0]
            if message["type"] == "remove":
                texts.pop(message["id"], None)
            else:
                texts[message["id"]] = texts.get(message["id"], "") + message["content"]
    return texts


@pytest.fixture
async def client(service: Any) -> AsyncIterator[Any]:
    async with get_client(url=service.url) as made:
        yield made


async def test_a_conversation_with_tools(client: Any) -> None:
    thread = await client.threads.create(metadata={"topic": "time"})
    created: list[Any] = []
    parts = [
        part
        async for part in client.runs.stream(
            thread["thread_id"],
            "agent",
            input=user(f"{SEOUL} tokens=12"),
            stream_mode=["values", "updates", "messages-tuple", "tasks", "custom", "tools"],
            on_run_created=created.append,
        )
    ]
    assert parts[0].event == "metadata"
    assert created == [{"run_id": parts[0].data["run_id"], "thread_id": thread["thread_id"]}]
    assert parts[-1].event == "end"
    final = [part.data for part in parts if part.event == "values"][-1]
    assert [message["type"] for message in final["messages"]] == ["human", "ai", "tool", "ai"]
    call = final["messages"][1]["tool_calls"][0]
    assert (call["name"], call["args"]) == ("current_time", {"zone": "Asia/Seoul"})
    texts = merged(parts)
    assert texts[final["messages"][3]["id"]] == final["messages"][3]["content"] != ""
    updates = [part.data for part in parts if part.event == "updates"]
    assert [next(iter(update)) for update in updates] == ["model", "tools", "model"]
    assert updates[2]["model"]["messages"][0]["content"] == final["messages"][3]["content"]
    tools = [part.data["event"] for part in parts if part.event == "tools"]
    assert tools == ["on_tool_start", "on_tool_end"]
    run = await client.runs.get(thread["thread_id"], created[0]["run_id"])
    assert run["status"] == "success"

    again = await client.runs.wait(thread["thread_id"], "agent", input=user("tokens=3"))
    assert len(again["messages"]) == 6
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"] == again
    assert state["next"] == []
    history = await client.threads.get_history(thread["thread_id"], limit=50)
    assert history[0]["checkpoint"] == state["checkpoint"]
    assert history[0]["parent_checkpoint"] == history[1]["checkpoint"]
    at = await client.threads.get_state(thread["thread_id"], checkpoint=history[1]["checkpoint"])
    assert at["values"] == history[1]["values"]
    runs = await client.runs.list(thread["thread_id"])
    assert [one["status"] for one in runs] == ["success", "success"]
    assert runs[1]["run_id"] == run["run_id"]
    found = await client.threads.search(metadata={"topic": "time"})
    assert [one["thread_id"] for one in found] == [thread["thread_id"]]
    assert found[0]["values"] == again
    assert found[0]["status"] == "idle"


async def test_legacy_messages_mode(client: Any) -> None:
    parts = [
        part
        async for part in client.runs.stream(
            None, "agent", input=user("tokens=5"), stream_mode="messages"
        )
    ]
    names = [part.event for part in parts]
    assert names[1] == "messages/metadata"
    assert names[-2:] == ["messages/complete", "end"]
    whole = parts[-2].data[0]
    assert whole["type"] == "ai"
    partial = [part.data[0]["content"] for part in parts if part.event == "messages/partial"]
    assert partial[-1] == whole["content"]
    assert all(whole["content"].startswith(text) for text in partial)


async def test_interrupt_and_resume_of_an_unmodified_graph(client: Any) -> None:
    thread = await client.threads.create()
    first = [
        part
        async for part in client.runs.stream(
            thread["thread_id"],
            "approval",
            input=user("How many people live in Seoul?"),
            stream_mode=["values", "updates"],
        )
    ]
    asked = [part.data["__interrupt__"] for part in first if "__interrupt__" in (part.data or {})]
    assert len(asked) == 2  # in updates and in values
    question = asked[0][0]
    assert question["value"]["args"] == {"city": "Seoul"}
    state = await client.threads.get_state(thread["thread_id"])
    assert state["next"] == ["approve"]
    assert state["tasks"][0]["interrupts"][0]["id"] == question["id"]
    seen = await client.threads.get(thread["thread_id"])
    assert seen["status"] == "interrupted"
    assert next(iter(seen["interrupts"].values()))[0]["id"] == question["id"]

    second = [
        part
        async for part in client.runs.stream(
            thread["thread_id"],
            "approval",
            command={"resume": True},
            stream_mode=["messages-tuple", "custom", "values"],
        )
    ]
    final = [part.data for part in second if part.event == "values"][-1]
    assert final["messages"][-1]["content"] == (
        "I looked it up: Seoul has 9.4 million inhabitants."
    )
    assert final["approved"] is True
    assert [part.data for part in second if part.event == "custom"] == [{"progress": "answering"}]
    assert merged(second)[final["messages"][-1]["id"]] == final["messages"][-1]["content"]
    assert (await client.threads.get(thread["thread_id"]))["status"] == "idle"


async def test_resume_by_id_and_what_cannot_be_resumed(client: Any) -> None:
    thread = await client.threads.create()
    asked = await client.runs.wait(thread["thread_id"], "approval", input=user("hi"))
    question = asked["__interrupt__"][0]["id"]
    with pytest.raises(APIStatusError) as stale:
        await client.runs.create(
            thread["thread_id"], "approval", command={"resume": {"0" * 32: True}}
        )
    assert stale.value.response.status_code == 409
    ended = await client.runs.wait(
        thread["thread_id"], "approval", command={"resume": {question: False}}
    )
    assert ended["approved"] is False
    with pytest.raises(APIStatusError) as nothing:
        await client.runs.create(thread["thread_id"], "approval", command={"resume": True})
    assert nothing.value.response.status_code == 409
    assert nothing.value.code == "no_interrupt"


async def test_cancel_keeps_what_was_said(client: Any) -> None:
    thread = await client.threads.create()
    run_id = ""
    parts: list[Any] = []
    async for part in client.runs.stream(
        thread["thread_id"],
        "agent",
        input=user("tokens=2000 rate=50"),
        stream_mode=["messages-tuple", "values"],
    ):
        parts.append(part)
        if part.event == "metadata":
            run_id = part.data["run_id"]
        if len(parts) == 12:
            await client.runs.cancel(thread["thread_id"], run_id, wait=True)
    assert parts[-1].event == "end"
    final = [part.data for part in parts if part.event == "values"][-1]
    text = final["messages"][-1]["content"]
    assert text
    assert text in merged(parts).values()
    assert (await client.runs.get(thread["thread_id"], run_id))["status"] == "interrupted"
    assert await client.runs.join(thread["thread_id"], run_id) == final


async def test_a_background_run_is_joined_and_streamed_again(client: Any) -> None:
    thread = await client.threads.create()
    run = await client.runs.create(
        thread["thread_id"], "agent", input=user("tokens=30 rate=40"), metadata={"why": "test"}
    )
    assert run["status"] in ("pending", "running")
    assert run["metadata"] == {"why": "test"}
    joining = asyncio.create_task(client.runs.join(thread["thread_id"], run["run_id"]))
    live = [
        part
        async for part in client.runs.join_stream(
            thread["thread_id"], run["run_id"], stream_mode=["messages-tuple", "values"]
        )
    ]
    assert await joining == [part.data for part in live if part.event == "values"][-1]
    late = [
        part
        async for part in client.runs.join_stream(
            thread["thread_id"], run["run_id"], stream_mode=["messages-tuple", "values"]
        )
    ]
    assert merged(late) == merged(live)
    middle = live[len(live) // 2].id
    rest = [
        part
        async for part in client.runs.join_stream(
            thread["thread_id"],
            run["run_id"],
            stream_mode=["messages-tuple", "values"],
            last_event_id=middle,
        )
    ]
    ids = [part.id for part in live]
    assert [part.id for part in rest] == ids[ids.index(middle) + 1 :]


async def test_a_failed_run_says_why(client: Any) -> None:
    with pytest.raises(Exception, match="model"):
        await client.runs.wait(None, "agent", input=user("error=400"))
    thread = await client.threads.create()
    failed = await client.runs.wait(
        thread["thread_id"], "agent", input=user("error=400"), raise_error=False
    )
    assert failed["__error__"]["message"]
    assert (await client.threads.get(thread["thread_id"]))["status"] == "error"


async def test_busy_threads(client: Any) -> None:
    thread = await client.threads.create()
    first = await client.runs.create(thread["thread_id"], "agent", input=user("tokens=60 rate=30"))
    with pytest.raises(APIStatusError) as busy:
        await client.runs.create(
            thread["thread_id"], "agent", input=user("hi"), multitask_strategy="reject"
        )
    assert busy.value.response.status_code == 409
    second = await client.runs.create(thread["thread_id"], "agent", input=user("tokens=2"))
    assert second["status"] == "pending"
    with pytest.raises(APIStatusError) as deleting:
        await client.threads.delete(thread["thread_id"])
    assert deleting.value.code == "thread_busy"
    await client.runs.cancel(thread["thread_id"], first["run_id"])
    values = await client.runs.join(thread["thread_id"], second["run_id"])
    assert len(values["messages"]) == 4
    runs = await client.runs.list(thread["thread_id"])
    assert {run["run_id"]: run["status"] for run in runs}[first["run_id"]] == "interrupted"
    await client.threads.delete(thread["thread_id"])
    with pytest.raises(APIStatusError) as gone:
        await client.threads.get(thread["thread_id"])
    assert gone.value.response.status_code == 404


async def test_assistants(client: Any) -> None:
    found = await client.assistants.search()
    graphs = sorted(one["graph_id"] for one in found)
    assert graphs == ["agent", "approval", "turnstream-agent"]
    agent = await client.assistants.get("agent")
    # what LangGraph's own server gives a graph of this name
    assert agent["assistant_id"] == "fe096781-5601-53d2-b2f6-0d3403f7e9ca"
    assert await client.assistants.get(agent["assistant_id"]) == agent
    drawing = await client.assistants.get_graph("approval")
    assert {node["id"] for node in drawing["nodes"]} >= {"plan", "approve", "tools", "answer"}
    schemas = await client.assistants.get_schemas("approval")
    assert "approved" in schemas["input_schema"]["properties"]
    with pytest.raises(APIStatusError) as unknown:
        await client.assistants.get("nobody")
    assert unknown.value.response.status_code == 404


async def test_threads(client: Any) -> None:
    made = await client.threads.create(thread_id="mine", metadata={"a": 1})
    assert made["status"] == "idle"
    with pytest.raises(APIStatusError) as twice:
        await client.threads.create(thread_id="mine")
    assert twice.value.response.status_code == 409
    same = await client.threads.create(thread_id="mine", if_exists="do_nothing")
    assert same["metadata"] == {"a": 1}
    changed = await client.threads.update("mine", metadata={"b": 2})
    assert changed["metadata"] == {"a": 1, "b": 2}
    assert await client.threads.count(metadata={"b": 2}) == 1
    state = await client.threads.get_state("mine")
    assert state["values"] == {}
    assert await client.threads.get_history("mine") == []
    with pytest.raises(APIStatusError) as unknown:
        await client.runs.create("nobody", "agent", input=user("hi"))
    assert unknown.value.response.status_code == 404
