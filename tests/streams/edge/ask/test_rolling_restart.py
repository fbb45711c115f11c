"""A rolling restart of two edges behind one address, with stock SDK clients in mid-run."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing

import pytest
from langgraph_sdk import get_client

from turnstream.schemas.records import events as ev

CLIENTS = 4
WORDS = ["one ", "two ", "three "]
STREAMS = 2
"""What the SDK opens for a thread whose messages are read: lifecycle, and all else."""


class Reader:
    """A stock client that reads one turn's message; `opened` counts the streams it has opened."""

    def __init__(self, thread) -> None:
        self.thread = thread
        self.opened = 0
        transport = thread._transport
        opening = transport.open_event_stream

        def counted(params):
            self.opened += 1
            return opening(params)

        transport.open_event_stream = counted
        self.words: list[str] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> str:
        # the iterator feeds the messages: it has to go on while they are read
        said = [asyncio.create_task(self._words(message)) async for message in self.thread.messages]
        return await said[0]

    async def _words(self, message) -> str:
        async for word in message.text:
            self.words.append(word)
        return await message.text


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_rolling_restart_is_a_pause(settings, open_running, front, worker, transport):
    go_on = [asyncio.Event() for _ in WORDS]

    async def slow(turn):
        await turn.start()
        await turn.say(ev.MessageStarted, message_id="m1", path="t1")
        for word, told in zip(WORDS, go_on, strict=True):
            await told.wait()
            await turn.tokens(word.strip())
        await turn.say(ev.MessageFinished, message_id="m1", path="t1")
        await turn.end()

    worker.script = slow
    async with AsyncExitStack() as clients, AsyncExitStack() as first, AsyncExitStack() as second:
        old = [await stack.enter_async_context(open_running(settings)) for stack in (first, second)]
        client = await clients.enter_async_context(aclosing(get_client(url=front.url)))
        readers = []
        for number in range(CLIENTS):
            front.to(old[number % 2].edge.port)
            stream = client.threads.stream(
                thread_id=f"t{number}", assistant_id="agent", transport=transport
            )
            thread = await clients.enter_async_context(stream)
            await thread.run.start(input={})
            reader = Reader(thread)
            readers.append(reader)
            await until(lambda thread=thread: thread._lifecycle_cursor is not None)
            await until(lambda reader=reader: reader.opened)
        go_on[0].set()
        await until(lambda: all(reader.words for reader in readers))
        held = [len(edge.edge.context.sockets.outlets) for edge in old]
        assert sum(held) == CLIENTS * STREAMS
        before = [reader.opened for reader in readers]

        front.to(old[1].edge.port)  # no newcomer goes where it would be sent away
        await first.aclose()
        await until(lambda: len(old[1].edge.context.sockets.outlets) == CLIENTS * STREAMS)
        go_on[1].set()
        await until(lambda: all(len(reader.words) > 1 for reader in readers))
        assert sum(reader.opened for reader in readers) - sum(before) == held[0]

        third = await first.enter_async_context(open_running(settings))
        front.to(third.edge.port)
        await second.aclose()
        await until(lambda: len(third.edge.context.sockets.outlets) == CLIENTS * STREAMS)
        go_on[2].set()
        async with asyncio.timeout(60):
            assert [await reader.reading for reader in readers] == ["".join(WORDS)] * CLIENTS
            for reader in readers:
                assert (await reader.thread._wait_for_run_done()).status == "completed"
        again = sum(reader.opened for reader in readers) - sum(before)
        assert again == held[0] + CLIENTS * STREAMS, "a stream was dropped without need"
