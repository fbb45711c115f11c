"""That a link harms as it says, seen from both of its ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from tests.chaos.parts.links import RelayProcess
from tests.chaos.parts.server import Launcher
from turnstream.deploy.local import machine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    launcher = Launcher()
    async with RelayProcess(tmp_path, launcher, machine.Ports()) as running:
        yield running
    launcher.close()


@contextlib.asynccontextmanager
async def echo(mark: bytes = b"") -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1024):
                writer.write(mark + data)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def say(streams: tuple, data: bytes) -> None:
    streams[1].write(data)
    await streams[1].drain()


async def hear(streams: tuple, timeout_s: float = 60.0) -> bytes:
    async with asyncio.timeout(timeout_s):
        return await streams[0].read(1024)


async def silent(streams: tuple) -> None:
    with pytest.raises(TimeoutError):
        await hear(streams, 0.2)


async def test_a_link_cuts_stalls_delays_swallows_ends_resets_and_heals(
    relay: RelayProcess,
) -> None:
    async with echo() as server:
        link = relay.link("one", server)
        other = relay.link("two", server)

        async def connect(through=link):
            opened.append(await asyncio.open_connection("127.0.0.1", through.port))
            return opened[-1]

        opened: list = []
        first, beside = await connect(), await connect(other)
        await say(first, b"a")
        assert await hear(first) == b"a"

        link.cut()
        assert await hear(first) == b""
        with pytest.raises(ConnectionError):
            await connect()
        await say(beside, b"b")
        assert await hear(beside) == b"b", "another link is well"
        link.heal()

        first = await connect()
        link.stall()
        await say(first, b"c")
        await silent(first)
        link.heal()
        assert await hear(first) == b"c", "nothing was lost"

        link.delay(0.3)
        began = time.monotonic()
        await say(first, b"d")
        assert await hear(first) == b"d"
        assert time.monotonic() - began > 0.55, "0.3 s each way"
        link.heal()

        link.swallow("down")
        await say(first, b"e")
        await silent(first)
        link.heal()
        assert await hear(first) == b"", "what was swallowed never comes"

        first = await connect()
        await say(first, b"f")
        assert await hear(first) == b"f"
        link.end()
        assert await hear(first) == b""
        first = await connect()
        await say(first, b"f")
        assert await hear(first) == b"f"
        link.reset()
        with pytest.raises(ConnectionResetError):
            await hear(first)
        first = await connect()
        await say(first, b"g")
        assert await hear(first) == b"g"

        async with echo(b"2:") as second:
            link.lead_to(second)
            again = await connect()
            await say(again, b"h")
            assert await hear(again) == b"2:h"
        for _, writer in opened:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_what_was_held_back_goes_on_when_its_reader_or_its_writer_has_gone(
    relay: RelayProcess,
) -> None:
    heard = bytearray()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            heard.extend(data)
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        link = relay.link("one", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        _, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"a" * 1000)
        await writer.drain()
        async with asyncio.timeout(60):
            while len(heard) < 1000:
                await asyncio.sleep(0.01)
        link.stall()
        writer.write(b"b" * 100_000)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        link.heal()
        async with asyncio.timeout(60):
            while len(heard) < 101_000:
                await asyncio.sleep(0.01)

    async with echo() as echoing:
        link = relay.link("two", echoing)
        held = await asyncio.open_connection("127.0.0.1", link.port)
        link.stall("down")
        await say(held, b"c" * 10_000)
        held[1].transport.abort()
        link.heal()
        again = await asyncio.open_connection("127.0.0.1", link.port)
        await say(again, b"d")
        assert await hear(again) == b"d"
        again[1].close()


async def test_a_stalled_link_holds_back_no_more_than_its_bound(relay: RelayProcess) -> None:
    """As behind a full window, the sender waits; nothing of it is lost."""
    async with echo() as echoing:
        link = relay.link("one", echoing)
        streams = await asyncio.open_connection("127.0.0.1", link.port)
        link.stall("up")
        sent = 32 << 20
        streams[1].write(b"x" * sent)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(streams[1].drain(), 0.5)
        link.heal()
        got = 0
        async with asyncio.timeout(60):
            while got < sent:
                got += len(await streams[0].read(1 << 20))
        streams[1].close()
