"""Answers that take their time: server-sent events, and JSON that is waited for.

A stream that breaks off before its run did is cut, not ended: the stock SDK takes a clean end for
the end of the run, and comes back after a cut.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog
from starlette.requests import HTTPConnection
from starlette.responses import Response

from turnstream.streams.edge.connections import connection_of, cut
from turnstream.streams.edge.frames import http_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from turnstream.streams.edge.auth import Principal
    from turnstream.streams.edge.fanout import Sockets
    from turnstream.streams.edge.outlet import Outlet

    Leave = Callable[[], Awaitable[None]]

_log = structlog.get_logger(__name__)
_ROOM_POLL_S = 0.02
# below the idle time-outs of common proxies (60 s)
WHITE_SPACE_EVERY_S = 15.0


class EventStream(Response):
    """A body of server-sent events, written past ASGI to an outlet that the watchdog looks after.

    `on_disconnect` is awaited if the client left before the end; an edge that stops is no client
    that leaves.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        sockets: Sockets,
        principal: Principal,
        *,
        headers: Mapping[str, str] | None = None,
        on_disconnect: Leave | None = None,
    ) -> None:
        about = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=about | dict(headers or {}))
        del self.headers["content-length"]
        sockets.check_room(principal)
        self._events = events
        self._sockets = sockets
        self._principal = principal
        self._on_disconnect = on_disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        connection = HTTPConnection(scope)
        with self._sockets.opened(connection_of(connection), self._principal) as outlet:
            await _begin(self, send, b": open\n\n")
            pumping = asyncio.create_task(self._pump(outlet))
            leaving = asyncio.create_task(_left(receive))
            try:
                await asyncio.wait({pumping, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not pumping.done():
                    if self._on_disconnect is not None and not self._sockets.closing.is_set():
                        await self._on_disconnect()
                elif (error := pumping.exception()) is not None:
                    _log.warning("stream cut", path=scope["path"], error=repr(error))
                    cut(connection)
                    await leaving
                else:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                await _stop(pumping, leaving)

    async def _pump(self, outlet: Outlet) -> None:
        """Write events as they come; one reader that is slow waits alone."""
        slow = self._sockets.limits.buffer_slow_bytes
        async with aclosing(self._events) as events:
            async for event in events:
                outlet.write_raw(http_chunk(event))
                if outlet.buffered > slow:
                    await room(outlet, slow // 2)


class LaterAnswer(Response):
    """A JSON answer that is waited for; white space before it keeps proxies patient.

    The status is 200 whatever comes: what can be refused is refused before.
    """

    media_type = "application/json"

    def __init__(
        self,
        answer: Callable[[], Awaitable[bytes]],
        *,
        headers: Mapping[str, str] | None = None,
        on_disconnect: Leave | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store"} | dict(headers or {}))
        del self.headers["content-length"]
        self._answer = answer
        self._on_disconnect = on_disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer once it is there."""
        await _begin(self, send, b"\n")
        answering = asyncio.ensure_future(self._answer())
        leaving = asyncio.create_task(_left(receive))
        try:
            while not answering.done() and not leaving.done():
                await asyncio.wait(
                    {answering, leaving},
                    timeout=WHITE_SPACE_EVERY_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not answering.done() and not leaving.done():
                    await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            if not answering.done():
                if self._on_disconnect is not None:
                    await self._on_disconnect()
            elif (error := answering.exception()) is not None:
                _log.warning("answer cut", path=scope["path"], error=repr(error))
                cut(HTTPConnection(scope))
                await leaving
            else:
                body = answering.result()
                await send({"type": "http.response.body", "body": body, "more_body": False})
        finally:
            await _stop(answering, leaving)


async def room(outlet: Outlet, bytes_max: int) -> None:
    """Wait until the client has taken all but `bytes_max`; the watchdog ends one that does not."""
    while outlet.buffered > bytes_max and outlet.open:  # noqa: ASYNC110  a transport tells nobody
        await asyncio.sleep(_ROOM_POLL_S)


def sse(event: str, data: bytes, seq: int | None = None) -> bytes:
    """Return one server-sent event; `data` is JSON on one line."""
    head = b"" if seq is None else b"id: %d\n" % seq
    return b"%bevent: %b\ndata: %b\n\n" % (head, event.encode(), data)


async def _begin(response: Response, send: Send, first: bytes) -> None:
    """Send the headers, and something to read, so that the client sees the answer begin."""
    start = {"status": response.status_code, "headers": response.raw_headers}
    await send({"type": "http.response.start", **start})
    await send({"type": "http.response.body", "body": first, "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stop(*tasks: asyncio.Future[None] | asyncio.Future[bytes]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
