"""Thread streams of the stock Python SDK against the whole service, on both transports."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from langgraph_sdk import get_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SEOUL = 'tool=current_time({"zone":"Asia/Seoul"})'


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def texts_of(thread: Any) -> list[str]:
    """Read every message; the iterator feeds the messages, so they are read beside it."""

    async def read(message: Any) -> str:
        return await message.text

    reads = [asyncio.ensure_future(read(message)) async for message in thread.messages]
    return await asyncio.gather(*reads)


async def calls_of(thread: Any) -> list[Any]:
    async def read(call: Any) -> Any:
        return call.name, await call.output

    reads = [asyncio.ensure_future(read(call)) async for call in thread.tool_calls]
    return await asyncio.gather(*reads)


@pytest.fixture
async def client(service: Any) -> AsyncIterator[Any]:
    async with get_client(url=service.url) as made:
        yield made


@pytest.fixture(params=["sse", "websocket"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_conversation_with_tools(client: Any, transport: str) -> None:
    """Two quick turns one after the other, on a thread that the SDK names."""
    thread_id = None
    for turn in (1, 2):
        async with (
            asyncio.timeout(60),
            client.threads.stream(thread_id, assistant_id="agent", transport=transport) as thread,
        ):
            await thread.run.start(input=user(f"{SEOUL} tokens=5"))
            thread_id = thread.thread_id
            texts, calls, output = await asyncio.gather(
                texts_of(thread), calls_of(thread), thread.output
            )
        assert [name for name, _ in calls] == ["current_time"]
        assert "Asia/Seoul" in str(calls[0][1])
        assert len(output["messages"]) == 4 * turn
        assert texts[-1] == output["messages"][-1]["content"] != ""
        state = await client.threads.get_state(thread_id)
        assert state["values"] == output


async def test_interrupt_and_answer(client: Any, transport: str) -> None:
    async with (
        asyncio.timeout(60),
        client.threads.stream(assistant_id="approval", transport=transport) as thread,
    ):
        await thread.run.start(input=user("How many people live in Seoul?"))
        while not thread.interrupted:
            await asyncio.sleep(0.01)
        assert thread.interrupts[0]["value"]["question"] == "May I call population?"
        await thread.run.respond(True)
        output = await thread.output
    assert output["approved"] is True
    answer = output["messages"][-1]["content"]
    assert answer == "I looked it up: Seoul has 9.4 million inhabitants."


async def test_one_question_after_the_other(asking: Any, transport: str) -> None:
    """`input.answered` stands between them, which this SDK does not know."""
    async with (
        asyncio.timeout(60),
        get_client(url=asking.url) as client,
        client.threads.stream(assistant_id="steps", transport=transport) as thread,
    ):
        await thread.run.start(input=user("go"))
        for count, question in enumerate(("first?", "second?"), 1):
            while len(thread.interrupts) < count:
                await asyncio.sleep(0.01)
            assert thread.interrupts[-1]["value"] == question
            asked = thread.interrupts[-1]["interrupt_id"]
            await thread.run.respond(f"a{count}", interrupt_id=asked)
        output = await thread.output
    assert output["messages"][-1]["content"] == "a1, then a2"


async def test_cancel_ends_the_run_and_keeps_what_was_said(client: Any, transport: str) -> None:
    async with (
        asyncio.timeout(60),
        client.threads.stream(assistant_id="agent", transport=transport) as thread,
    ):
        run = await thread.run.start(input=user("tokens=2000 rate=50"))
        reading = asyncio.create_task(texts_of(thread))
        while not thread._active_message_streams:
            await asyncio.sleep(0.01)
        await client.runs.cancel(thread.thread_id, run["run_id"])
        texts = await reading
        with pytest.raises(Exception, match="cancelled"):
            await thread.output
        state = await client.threads.get_state(thread.thread_id)
    assert state["values"]["messages"][-1]["content"] == texts[-1]
    assert (await client.runs.get(thread.thread_id, run["run_id"]))["status"] == "interrupted"
