"""The process behind all links: it passes bytes on, or does to them what it was told.

Run as a program it serves its controls on `--port`: one JSON object a line, answered by a line
that is `{}` or has an `error`. Everything is done when the answer comes.

    {"do": "open", "link": NAME, "port": P, "upstream": "host:port"}
    {"do": "cut" | "end" | "reset" | "heal", "link": NAME}
    {"do": "hold" | "swallow", "link": NAME, "ways": ["up", "down"]}
    {"do": "delay", "link": NAME, "ways": [...], "seconds": S, "jitter_s": J}
    {"do": "lead", "link": NAME, "upstream": "host:port"}
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import struct
from collections import deque
from typing import Any, Literal, cast

import uvloop

Way = Literal["up", "down"]
HELD_BYTES_MAX = 1 << 20
"""Of one connection and way; then its sender is not read from, as behind a full TCP window."""
_ALWAYS = float("inf")
_RESET = struct.pack("ii", 1, 0)  # linger for no time: what closes, closes by RST


class End(asyncio.Protocol):
    """One end of a connection through a link: the client's (its data go up) or the server's."""

    def __init__(self, link: Link, way: Way) -> None:
        self.link, self.way = link, way
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self.full = False
        self.linked = way == "down"  # a client's data wait until the server is reached
        self.queue: deque[tuple[float, bytes]] = deque()  # when to pass it on; b"": it was closed
        self.queued_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.link.ends.add(self)
        if self.way == "up":
            self.link.connect(self)

    def data_received(self, data: bytes) -> None:
        if self.way not in self.link.swallowed:
            self._take(data)

    def eof_received(self) -> bool:
        return False  # closes this end too; `connection_lost` tells the other

    def connection_lost(self, exc: Exception | None) -> None:
        self.link.ends.discard(self)
        self.transport = None
        self._take(b"")  # goes on its way behind what was read before

    def pause_writing(self) -> None:
        self.full = True
        if self.other is not None:
            self.other.read_or_wait()

    def resume_writing(self) -> None:
        self.full = False
        if self.other is not None:
            self.other.read_or_wait()

    def read_or_wait(self) -> None:
        """Read on, unless what was read cannot go anywhere."""
        if self.transport is None or self.transport.is_closing() or self.other is None:
            return
        if self.other.full or self.queued_bytes > HELD_BYTES_MAX:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def abort(self) -> None:
        """End at once; nothing that is queued goes on."""
        self.queue.clear()
        self.queued_bytes = 0
        if self.transport is not None:
            self.transport.abort()

    def _take(self, data: bytes) -> None:
        wait = self.link.wait_of(self.way)
        if self.linked and not wait and not self.queue:
            self._pass(data)
            return
        now = asyncio.get_running_loop().time()
        due = max(now + wait, self.queue[-1][0] if self.queue else 0.0)
        self.queue.append((due, data))
        self.queued_bytes += len(data)
        self.read_or_wait()
        if self.linked and len(self.queue) == 1:
            self._await_next()

    def _await_next(self) -> None:
        due = self.queue[0][0]
        if due != _ALWAYS:
            self._timer = asyncio.get_running_loop().call_at(due, self.pass_due)

    def pass_due(self, *, all_of_it: bool = False) -> None:
        """Pass on what has waited long enough, or everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = asyncio.get_running_loop().time()
        while self.linked and self.queue and (all_of_it or self.queue[0][0] <= now):
            data = self.queue.popleft()[1]
            self.queued_bytes -= len(data)
            self._pass(data)
        if self.linked and self.queue:
            self._await_next()
        self.read_or_wait()

    def _pass(self, data: bytes) -> None:
        to = self.other.transport if self.other is not None else None
        if to is None or to.is_closing():
            return
        if data:
            to.write(data)
        else:
            to.close()


class Link:
    """A port and where it leads."""

    def __init__(self, port: int, upstream: str) -> None:
        self.port, self.upstream = port, upstream
        self.ends: set[End] = set()
        self.swallowed: set[Way] = set()
        self._waits: dict[Way, tuple[float, float]] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: End(self, "up"), "127.0.0.1", self.port, backlog=512
            )

    def connect(self, client: End) -> None:
        """Connect a new client's other end."""
        task = asyncio.create_task(self._connect(client))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, client: End) -> None:
        host, _, port = self.upstream.rpartition(":")
        server = End(self, "down")
        server.other, client.other = client, server
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, host, int(port))
        except OSError:
            client.abort()
            return
        client.linked = True
        client.pass_due()

    def wait_of(self, way: Way) -> float:
        """Return how long a piece of data that comes now has to wait, in seconds."""
        seconds, jitter_s = self._waits.get(way, (0.0, 0.0))
        return max(0.0, seconds + random.uniform(-jitter_s, jitter_s)) if seconds else 0.0

    def end(self, *, reset: bool = False) -> None:
        for end in tuple(self.ends):
            if reset and end.transport is not None:
                connection = end.transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.abort()

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.end()

    def delay(self, ways: list[Way], seconds: float, jitter_s: float = 0.0) -> None:
        self._waits.update(dict.fromkeys(ways, (seconds, jitter_s)))

    async def heal(self) -> None:
        if self.swallowed:
            self.end()  # they miss something, and would never learn of it
            self.swallowed.clear()
        self._waits.clear()
        for end in tuple(self.ends):
            end.pass_due(all_of_it=True)
            if end.other is not None:
                end.other.pass_due(all_of_it=True)  # it may be gone, and have left something
        await self.open()

    def lead(self, upstream: str) -> None:
        self.upstream = upstream
        self.end()


class Relay:
    """All links, by name, and what is done to them."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}

    async def do(self, asked: dict[str, Any]) -> None:
        name = asked["link"]
        if asked["do"] == "open":
            self.links[name] = Link(asked["port"], asked["upstream"])
            await self.links[name].open()
            return
        link = self.links[name]
        match asked["do"]:
            case "cut":
                await link.cut()
            case "end" | "reset":
                link.end(reset=asked["do"] == "reset")
            case "hold":
                link.delay(asked["ways"], _ALWAYS)
            case "delay":
                link.delay(asked["ways"], asked["seconds"], asked["jitter_s"])
            case "swallow":
                link.swallowed.update(asked["ways"])
            case "lead":
                link.lead(asked["upstream"])
            case "heal":
                await link.heal()
            case unknown:
                raise ValueError(f"a link cannot {unknown}")

    async def listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client of the controls."""
        while line := await reader.readline():
            answer = {}
            try:
                await self.do(json.loads(line))
            except (KeyError, ValueError, OSError) as error:
                answer = {"error": repr(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()


async def serve(port: int) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with await asyncio.start_server(Relay().listen, "127.0.0.1", port):
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
