"""Bare clients that cost little: one HTTP connection, one WebSocket, read by pattern.

The scripted model writes the monotonic clock (ns) into each token (`<ns> `); whoever reads the
bytes knows how long that token was on its way.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import time
from dataclasses import dataclass, field

STAMP = re.compile(rb"(\d{12,19}) ")
TAIL_BYTES = 64
PING, PONG = 0x9, 0xA


@dataclass
class Window:
    """What arrives on all streams of a row while `on`, in seconds.

    `latencies` of tokens; `gaps` between arrivals of one turn, each with one token or more.
    """

    on: bool = False
    latencies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


@dataclass
class Reading:
    """What came of one turn."""

    first_at: float = 0.0
    last_at: float = 0.0
    tokens: int = 0
    ends: int = 0


class Stream(asyncio.Protocol):
    """Reads stamps and end marks out of whatever arrives."""

    def __init__(self, end: bytes, window: Window | None = None) -> None:
        self.end, self.rest, self.reading = re.compile(end), b"", Reading()
        self.window = window or Window()
        self.last_stamp = 0
        self.latest = b""
        self.waiter: asyncio.Future[None] | None = None
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        lost = error or ConnectionResetError(f"closed by the server after {self.latest[-200:]!r}")
        for waiting in (self.head, self.waiter):
            if waiting is not None and not waiting.done():
                waiting.set_exception(lost)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.latest = data
        if not self.head.done():
            self.head.set_result(data)
        data = self.rest + data
        at = 0
        for found in STAMP.finditer(data):  # the space says that the number is whole
            self._token(now, int(found[1]))
            at = found.end()
        for found in self.end.finditer(data):
            at = max(at, found.end())
            self.reading.ends += 1
            if self.waiter is not None and not self.waiter.done():
                self.waiter.set_result(None)
        self.rest = data[max(at, len(data) - TAIL_BYTES) :]

    def _token(self, now: int, stamp: int) -> None:
        if stamp <= self.last_stamp:
            return  # the end of a message repeats its whole text
        self.last_stamp = stamp
        reading = self.reading
        at = now / 1e9
        if not reading.first_at:
            reading.first_at = reading.last_at = at
        reading.tokens += 1
        if self.window.on:
            self.window.latencies.append((now - stamp) / 1e9)
            if at > reading.last_at:
                self.window.gaps.append(at - reading.last_at)
        reading.last_at = at

    async def turn(self, timeout_s: float) -> None:
        """Wait for the next end."""
        if self.closed:
            raise ConnectionResetError("closed before the turn")
        self.waiter = asyncio.get_running_loop().create_future()
        await asyncio.wait_for(self.waiter, timeout_s)


class Socket(Stream):
    """A WebSocket: as a stream, but that it answers pings, without which a server closes it."""

    def __init__(self, end: bytes, window: Window | None = None) -> None:
        super().__init__(end, window)
        self._frames = b""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        frames = self._frames + data
        if not self._frames and frames[:5] == b"HTTP/":
            frames = frames.partition(b"\r\n\r\n")[2]
        while len(frames) >= 2:
            size, at = frames[1] & 0x7F, 2
            if size >= 126:
                at = 4 if size == 126 else 10
                size = int.from_bytes(frames[2:at], "big")
            if len(frames) < at + size:
                break
            if frames[0] & 0x0F == PING:
                # a mask of zeros leaves the payload as it is
                self.transport.write(
                    bytes((0x80 | PONG, 0x80 | size)) + bytes(4) + frames[at : at + size]
                )
            frames = frames[at + size :]
        self._frames = frames


def http(method: str, path: str, body: object, *, close: bool = False) -> bytes:
    data = json.dumps(body).encode()
    return (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"connection: {'close' if close else 'keep-alive'}\r\ncontent-length: {len(data)}\r\n\r\n"
    ).encode() + data


def frame(body: object) -> bytes:
    """One masked WebSocket text frame (RFC 6455 §5.2) of less than 64 KiB."""
    data = json.dumps(body).encode()
    mask = os.urandom(4)
    head = (
        bytes([0x81, 0x80 | len(data)])
        if len(data) < 126
        else (b"\x81" + bytes([0x80 | 126]) + len(data).to_bytes(2, "big"))
    )
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


async def open_websocket(port: int, path: str, end: bytes, window: Window) -> Stream:
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: Socket(end, window), "127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    stream.transport.write(
        f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nupgrade: websocket\r\n"
        f"connection: Upgrade\r\nsec-websocket-key: {key}\r\n"
        "sec-websocket-version: 13\r\n\r\n".encode()
    )
    head = await asyncio.wait_for(stream.head, 10)
    if b" 101 " not in head.split(b"\r\n")[0]:
        raise ConnectionError(head[:200].decode(errors="replace"))
    return stream
