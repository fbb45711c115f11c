"""Server-sent events, for every surface of the edge.

When the edge cannot go on with a stream, it cuts the connection and sends no end of the body. A
stock SDK takes a clean end for the end of the run; after a cut it comes back with its cursor.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Self

import structlog
from starlette.requests import HTTPConnection
from starlette.responses import Response

from turnstream.schemas import unexpected
from turnstream.schemas.errors import TurnstreamError
from turnstream.streams.edge.deliver.departure import begin, leave, until_left
from turnstream.streams.edge.deliver.frames import http_chunk
from turnstream.streams.edge.server.connections import INTERNAL_CLOSE_CODE, connection_of
from turnstream.streams.edge.server.problems import unexpected_text
from turnstream.streams.edge.surfaces.encoding import encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from turnstream.streams.edge.deliver.departure import Leave
    from turnstream.streams.edge.deliver.fanout import Sockets
    from turnstream.streams.edge.deliver.socket import Outlet
    from turnstream.streams.edge.server.auth import Principal

    Serve = Callable[[Outlet], Awaitable[None]]

_log = structlog.get_logger(__name__)


class EventStream(Response):
    """A body of server-sent events, written past ASGI to an outlet that the watchdog looks after.

    `serve` writes to the outlet, and returns where the body ends. If it raises, the connection is
    cut; with `error_event` the client first reads an event `error` that names an unexpected error.
    `on_disconnect` is awaited if the client leaves before the end, but not if the edge stops.

    Raises `TooManyRequestsError` and `UnavailableError` before anything is sent.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        serve: Serve,
        sockets: Sockets,
        principal: Principal,
        *,
        headers: Mapping[str, str] | None = None,
        on_disconnect: Leave | None = None,
        error_event: bool = False,
    ) -> None:
        about = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=about | dict(headers or {}))
        del self.headers["content-length"]
        sockets.check_room(principal)
        self._serve = serve
        self._sockets = sockets
        self._principal = principal
        self._on_disconnect = on_disconnect
        self._error_event = error_event

    @classmethod
    def of(
        cls,
        events: AsyncGenerator[bytes, None],
        sockets: Sockets,
        principal: Principal,
        *,
        headers: Mapping[str, str] | None = None,
        on_disconnect: Leave | None = None,
    ) -> Self:
        """Return a body of these events (see `sse`). A slow reader delays its own events only."""
        slow_bytes = sockets.limits.buffer_slow_bytes

        async def serve(outlet: Outlet) -> None:
            async with aclosing(events):
                async for event in events:
                    await outlet.send(http_chunk(event), slow_bytes)

        return cls(
            serve,
            sockets,
            principal,
            headers=headers,
            on_disconnect=on_disconnect,
            error_event=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        path: str = scope["path"]
        connection = connection_of(HTTPConnection(scope))
        with self._sockets.opened(connection, self._principal) as outlet:
            await begin(self, send, b": open\n\n")
            async with until_left(self._serve(outlet), receive) as (serving, leaving):
                if not serving.done():
                    if not self._sockets.closing.is_set():
                        await leave(self._on_disconnect, path)
                elif (error := serving.exception()) is not None:
                    self._cut(outlet, error, path)
                    await leaving
                else:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _cut(self, outlet: Outlet, error: BaseException, path: str) -> None:
        if isinstance(error, TurnstreamError):
            _log.warning("stream_cut", path=path, code=error.code)
        else:
            error_id = unexpected.note("edge_stream", error, path=path)
            if self._error_event:
                data = {"error": "internal", "message": unexpected_text(error, error_id)}
                outlet.write_raw(http_chunk(sse("error", encode(data))))
        outlet.close(INTERNAL_CLOSE_CODE, "internal")


def sse(event: str, data: bytes, seq: int | None = None) -> bytes:
    """Return one server-sent event; `data` is JSON on one line."""
    head = b"" if seq is None else b"id: %d\n" % seq
    return b"%bevent: %b\ndata: %b\n\n" % (head, event.encode(), data)
