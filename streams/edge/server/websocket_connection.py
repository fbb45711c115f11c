"""uvicorn's WebSocket protocol class, with bounds that it lacks and its transport within reach.

A connection and its scope refer to each other while they last. At their ends these cycles are
broken, so that no socket waits for a garbage collection
(`tests/streams/edge/server/test_cycles.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import SecurityError

from turnstream.streams.edge.server.connections import STATE_KEY
from turnstream.streams.edge.server.refusal import refusal

if TYPE_CHECKING:
    import asyncio

    from uvicorn.config import Config
    from uvicorn.server import ServerState
    from websockets.frames import Frame

    from turnstream.streams.edge.server.arrivals import Arrivals

FRAGMENTS_MAX = 16_384
"""Frames of one WebSocket message; empty ones count."""
PONG_BUFFER_BYTES_MAX = 64 << 10
"""Unread bytes of a peer above which it gets no more pongs."""


class EdgeWebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket connection that finds itself in its scope's state."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        arrivals: Arrivals,
    ) -> None:
        super().__init__(config, server_state, {**app_state, STATE_KEY: self}, _loop)
        self._arrivals = arrivals

    @property
    def writable_now(self) -> bool:
        """Say whether a data frame may be written."""
        return self.handshake_complete and not self.close_sent and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the caller to be known; `settle` ends the wait."""
        super().connection_made(transport)
        self._arrivals.wait(self, self._arrivals.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._arrivals.settle(self)
        super().connection_lost(exc)
        self.app_state = {}  # it is in there

    def settle(self) -> None:
        """Note that the caller is known: the socket may stay."""
        self._arrivals.settle(self)

    def time_out(self) -> None:
        """Drop a socket whose caller did not become known, or that does not answer its close."""
        self.transport.abort()

    evict = time_out

    def close_with(self, code: int, reason: str) -> None:
        """Send a close frame, unless one is sent, and let the peer answer it."""
        if not self.writable_now:
            return
        # as the base class does for ASGI's websocket.close
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    def data_received(self, data: bytes) -> None:
        """Take bytes; refuse an upgrade that cannot be parsed, which hangs in the base class."""
        super().data_received(data)
        error = self.conn.handshake_exc
        if self.handshake_initiated or error is None or self.close_sent:
            return
        self.close_sent = True
        if isinstance(error, SecurityError):
            answer = refusal(431, "head_too_large", "a line or the count of headers is too large")
        else:
            answer = refusal(400, "invalid_http", "the request is no WebSocket handshake")
        self.transport.write(answer)
        self.transport.close()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Bound what is left of a socket that is over: its close may find no reader."""
        super().on_task_complete(task)
        self.scope = {}  # type: ignore[typeddict-item]  # it is in there
        if not self.disconnected:
            self._arrivals.wait(self, 2 * self.close_timeout)

    def handle_cont(self, event: Frame) -> None:
        """Take one more fragment of a message; the base class bounds their bytes alone."""
        if len(self.frames) >= FRAGMENTS_MAX:
            if not self.close_sent:
                self.frames.clear()
                self.close_with(1009, "too many fragments")
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer a ping, unless the peer does not read the answers."""
        if self.transport.get_write_buffer_size() > PONG_BUFFER_BYTES_MAX:
            self.conn.data_to_send()
            return
        super().handle_ping()

    def shutdown(self) -> None:
        """Close with 1012 and wait for the peer: 1001 or a lost handshake would end its run."""
        if self.handshake_complete and not self.close_sent:
            self.stop_keepalive()
            self.close_with(1012, "restart")
        else:
            super().shutdown()
