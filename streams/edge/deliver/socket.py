"""The outlet of one socket: prepared bytes, written straight to its transport."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from turnstream.streams.edge.deliver.frames import http_chunk
from turnstream.streams.edge.server.websocket_connection import EdgeWebSocketProtocol

if TYPE_CHECKING:
    from turnstream.streams.edge.deliver.frames import ProtocolEvent
    from turnstream.streams.edge.deliver.subscription import Subscription
    from turnstream.streams.edge.server.auth import Principal
    from turnstream.streams.edge.server.connections import Connection

SSE_HEARTBEAT = http_chunk(b": keep-alive\n\n")
JSON_HEARTBEAT = http_chunk(b"\n")
SILENT = b""
_DRAIN_POLL_S = 0.02


class Outlet:
    """Writes events to one socket, as WebSocket frames or as SSE chunks.

    An answer that a client waits for has an outlet too, so that the watchdog ends it when its token
    expires. Its `heartbeat` is white space, or `SILENT` before its head is sent.

    `subscriptions` are those that write here. `moved` is set when one of them may have written a
    snapshot for which others wait.
    """

    def __init__(
        self, connection: Connection, principal: Principal, heartbeat: bytes = SSE_HEARTBEAT
    ) -> None:
        self.connection = connection
        self.principal = principal
        self.frames = 0
        self.written = 0
        self.idle_since = time.monotonic()
        self.subscriptions: set[Subscription] = set()
        self.moved = asyncio.Event()
        self._transport = connection.transport
        self._websocket = isinstance(connection, EdgeWebSocketProtocol)
        self.heartbeat = SILENT if self._websocket else heartbeat
        self._drained = 0
        self._progress_at = time.monotonic()
        self._full_at: int | None = None

    @property
    def streams(self) -> bool:
        """Return whether it carries events, which a client can go on reading after a cut."""
        return self._websocket or self.heartbeat is SSE_HEARTBEAT

    @property
    def open(self) -> bool:
        """Return whether anything can still be written."""
        return self.connection.writable_now

    @property
    def buffered(self) -> int:
        """Return how many bytes the peer has not taken yet."""
        size: int = self._transport.get_write_buffer_size()
        return size

    def write(self, event: ProtocolEvent) -> None:
        """Write one event, or drop it after the end. The hot path of fan-out."""
        if not self.connection.writable_now:
            return
        data = event.frame if self._websocket else event.chunk
        try:
            self._transport.write(data)
        except RuntimeError:  # uvloop raises on a transport that is closed
            return
        self.frames += 1
        self.written += len(data)

    def write_raw(self, data: bytes) -> None:
        """Write whole frames or chunks, or drop them after the end."""
        if not self.connection.writable_now:
            return
        try:
            self._transport.write(data)
        except RuntimeError:
            return
        self.frames += 1
        self.written += len(data)

    async def send(self, data: bytes, slow_bytes: int) -> None:
        """Write whole frames or chunks; if the peer is slow, wait until it has taken most."""
        self.write_raw(data)
        if self.buffered > slow_bytes:
            await self.drained(slow_bytes // 2)

    async def drained(self, bytes_max: int) -> None:
        """Wait until at most `bytes_max` are unsent; the watchdog ends a peer that never reads."""
        while self.buffered > bytes_max and self.open:  # noqa: ASYNC110  a transport has no event
            await asyncio.sleep(_DRAIN_POLL_S)

    def close(self, code: int, reason: str) -> None:
        """End the socket: a close frame, or a body that is cut."""
        if isinstance(self.connection, EdgeWebSocketProtocol):
            self.connection.close_with(code, reason)
        else:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection and its unsent bytes."""
        self._transport.abort()

    def stalled_s(self, now: float) -> float:
        """Return for how many seconds the peer has taken nothing although bytes were unsent."""
        buffered = self.buffered
        drained = self.written - buffered
        if buffered == 0 or drained > self._drained:
            self._drained, self._progress_at = drained, now
        return now - self._progress_at

    def flooded(self, limit: int) -> bool:
        """Return whether more than `limit` bytes were written to a buffer that held as many.

        Call it periodically. One event alone may be larger than `limit`, and its reader slow; its
        writers wait until it is read before they write the next.
        """
        if self.buffered <= limit:
            self._full_at = None
            return False
        if self._full_at is None:
            self._full_at = self.written
        return self.written - self._full_at > limit

    def beat(self, now: float, every_s: float) -> None:
        """Keep proxies awake; WebSockets have pings."""
        if self.heartbeat and now - self.idle_since >= every_s:
            self.idle_since = now
            self.write_raw(self.heartbeat)
