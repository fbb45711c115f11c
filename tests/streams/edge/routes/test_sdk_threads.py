"""The stock SDK's thread streams, unmodified, on both transports."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, aclosing

import pytest
from following import texts_of
from langgraph_sdk import get_client

from turnstream.schemas.records import events as ev

TRANSPORTS = ["sse", "websocket"]


@pytest.fixture
async def client(edge):
    client = get_client(url=edge.url)
    yield client
    await client.aclose()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_messages_of_a_run(client, worker, transport):
    async with client.threads.stream(
        thread_id="a", assistant_id="agent", transport=transport
    ) as thread:
        result = await thread.run.start(input={"messages": []})
        assert result["run_id"] == worker.commands[0].turn_id
        assert await texts_of(thread) == ["hello world "]
        async with asyncio.timeout(60):
            done = await thread._wait_for_run_done()
        assert done.status == "completed"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_two_runs_one_after_the_other(client, worker, transport):
    for number in range(2):
        async with client.threads.stream(
            thread_id="a", assistant_id="agent", transport=transport
        ) as thread:
            await thread.run.start(input={"n": number})
            assert await texts_of(thread) == ["hello world "]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_thread_that_the_sdk_names(client, worker, transport):
    async with client.threads.stream(assistant_id="agent", transport=transport) as thread:
        await thread.run.start(input={})
        assert await texts_of(thread) == ["hello world "]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_interrupt_and_answer(client, worker, transport):
    async def ask(turn):
        await turn.start()
        await turn.say(ev.InputRequested, interrupt_id="i" * 32, payload='"sure?"')
        interrupts = [ev.Interrupt(id="i" * 32, payload='"sure?"')]
        await turn.end(ev.TurnInterrupted, interrupts=interrupts)

    worker.script = ask
    async with client.threads.stream(
        thread_id="a", assistant_id="agent", transport=transport
    ) as thread:
        await thread.run.start(input={})
        async with asyncio.timeout(60):
            while not thread.interrupted:
                await asyncio.sleep(0.01)
        assert [entry["value"] for entry in thread.interrupts] == ["sure?"]

        async def answered(turn):
            await turn.start()
            await turn.message("thanks", "m2")
            await turn.end()

        worker.script = answered
        result = await thread.run.respond("yes")
        assert result["run_id"] == worker.commands[-1].turn_id
        assert json.loads(worker.commands[-1].answers) == {"i" * 32: "yes"}
        async with asyncio.timeout(60):
            assert (await thread._wait_for_run_done()).status == "completed"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_rewind_is_an_error_and_a_new_message(client, worker, transport):
    seen = asyncio.Event()

    async def crash(turn):
        await turn.start()
        await turn.say(ev.MessageStarted, message_id="m1", path="t1")
        await turn.tokens("lost words")
        await seen.wait()
        await turn.again(high_n=turn.n)
        await turn.message("found words")
        await turn.end(ev.TurnCompleted, text="found words ")

    worker.script = crash
    async with client.threads.stream(
        thread_id="a", assistant_id="agent", transport=transport
    ) as thread:
        await thread.run.start(input={})
        reading = asyncio.create_task(texts_of(thread))
        async with asyncio.timeout(60):
            while not thread._active_message_streams:
                await asyncio.sleep(0.01)
        seen.set()
        texts = await reading
    assert texts[0].startswith("taken back")
    assert texts[1] == "found words "


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_failed_and_a_cancelled_run(client, worker, transport):
    async def broken(turn):
        await turn.start()
        await turn.tokens("half")
        await turn.end(ev.TurnFailed, code="model_error", message="gone")

    async def stopped(turn):
        await turn.start()
        await turn.tokens("half")
        await turn.end(ev.TurnCancelled, cause="user")

    for script, error in ((broken, "model_error: gone"), (stopped, "cancelled")):
        worker.script = script
        async with client.threads.stream(
            thread_id="a", assistant_id="agent", transport=transport
        ) as thread:
            await thread.run.start(input={})
            async with asyncio.timeout(60):
                done = await thread._wait_for_run_done()
            assert error in str(done.error)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_edge_that_goes_and_comes_back(settings, open_running, front, worker, transport):
    """A restart in mid-run: the SDK's streams come back while the new edge starts, and resume.

    The SDK gives a stream up after a quarter of a second of refused connections: so there is an
    address that stays.
    """
    half = asyncio.Event()

    async def slow(turn):
        await turn.start()
        await turn.say(ev.MessageStarted, message_id="m1", path="t1")
        await turn.tokens("one two")
        await half.wait()
        await turn.tokens("three four")
        await turn.say(ev.MessageFinished, message_id="m1", path="t1")
        await turn.end()

    worker.script = slow
    async with AsyncExitStack() as old, aclosing(get_client(url=front.url)) as client:
        first = await old.enter_async_context(open_running(settings))
        front.to(first.edge.port)
        async with client.threads.stream(
            thread_id="a", assistant_id="agent", transport=transport
        ) as thread:
            await thread.run.start(input={})
            reading = asyncio.create_task(texts_of(thread))
            async with asyncio.timeout(60):
                # until every stream has a cursor: the SDK cannot resume what has heard nothing
                while not thread._active_message_streams or thread._lifecycle_cursor is None:
                    await asyncio.sleep(0.01)
            await old.aclose()
            async with open_running(settings) as second:
                front.to(second.edge.port)
                half.set()
                async with asyncio.timeout(60):
                    assert await reading == ["one two three four "]
                    assert (await thread._wait_for_run_done()).status == "completed"
