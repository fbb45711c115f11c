"""uvicorn's protocol classes with the transport within reach, so that frames go straight to it.

Through ASGI's `send` a frame costs half as much again, and one reader that stalls makes everybody
wait. What is written here must leave the connection as the protocol class would have: whole frames
after the handshake and before the close, whole chunks inside a chunked body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    import asyncio

    from starlette.requests import HTTPConnection
    from uvicorn.config import Config
    from uvicorn.server import ServerState

_KEY = "turnstream.connection"
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class EdgeWebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket connection that finds itself in its scope's state."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, _KEY: self}, _loop)

    @property
    def writable_now(self) -> bool:
        """Say whether a data frame may be written."""
        return self.handshake_complete and not self.close_sent and not self.transport.is_closing()

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
        if self.handshake_initiated or self.conn.handshake_exc is None or self.close_sent:
            return
        self.close_sent = True
        self.transport.write(_TOO_LARGE)
        self.transport.close()

    def shutdown(self) -> None:
        """Close with 1012 and wait for the peer: 1001 or a lost handshake would end its run."""
        if self.handshake_complete and not self.close_sent:
            self.stop_keepalive()
            self.close_with(1012, "restart")
        else:
            super().shutdown()


class EdgeHttpProtocol(HttpToolsProtocol):
    """An HTTP connection that finds itself in its scope's state."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._plain_state = app_state
        super().__init__(config, server_state, {**app_state, _KEY: self}, _loop)

    @property
    def writable_now(self) -> bool:
        """Say whether the body may go on."""
        cycle = self.cycle
        return not (self.transport.is_closing() or cycle is None or cycle.response_complete)


Connection = EdgeWebSocketProtocol | EdgeHttpProtocol


def connection_of(connection: HTTPConnection) -> Connection:
    """Return the protocol object that carries a request or a socket."""
    return cast("Connection", connection.scope["state"][_KEY])


def cut(connection: HTTPConnection) -> None:
    """Break the connection off without the body's end: a client then comes back and resumes."""
    connection_of(connection).transport.close()
