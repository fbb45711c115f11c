"""Answers that take their time: server-sent events, and JSON that is waited for.

A stream that breaks off before its run did is cut, not ended: the stock SDK takes a clean end for
the end of the run, and comes back after a cut.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response

from turnstream.schemas import unexpected
from turnstream.schemas.errors import TurnstreamError
from turnstream.streams.edge.deliver.frames import http_chunk
from turnstream.streams.edge.deliver.socket import JSON_HEARTBEAT, SILENT
from turnstream.streams.edge.server.connections import INTERNAL_CLOSE_CODE, connection_of, cut
from turnstream.streams.edge.server.problems import unexpected_text
from turnstream.streams.edge.surfaces.states import encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from turnstream.streams.edge.deliver.fanout import Sockets
    from turnstream.streams.edge.deliver.socket import Outlet
    from turnstream.streams.edge.server.auth import Principal

    Leave = Callable[[], Awaitable[None]]

Answer = TypeVar("Answer")

_log = structlog.get_logger(__name__)
_ROOM_POLL_S = 0.02


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
                    if not self._sockets.closing.is_set():
                        await _leave(self._on_disconnect, scope["path"])
                elif (error := pumping.exception()) is not None:
                    _cut_off(outlet, error, scope["path"])
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

    It counts as one of its caller's sockets, and the watchdog ends it with the caller's token. The
    status is 200 whatever comes: what can be refused is refused before.
    """

    media_type = "application/json"

    def __init__(
        self,
        answer: Callable[[], Awaitable[bytes]],
        sockets: Sockets,
        principal: Principal,
        *,
        headers: Mapping[str, str] | None = None,
        on_disconnect: Leave | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store"} | dict(headers or {}))
        del self.headers["content-length"]
        sockets.check_room(principal)
        self._answer = answer
        self._sockets = sockets
        self._principal = principal
        self._on_disconnect = on_disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer once it is there."""
        connection = connection_of(HTTPConnection(scope))
        with self._sockets.opened(connection, self._principal, SILENT) as outlet:
            await _begin(self, send, b"\n")
            outlet.heartbeat = JSON_HEARTBEAT
            answering = asyncio.ensure_future(self._answer())
            leaving = asyncio.create_task(_left(receive))
            try:
                await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    await _leave(self._on_disconnect, scope["path"])
                elif isinstance(error := answering.exception(), TurnstreamError):
                    _log.warning("answer cut", path=scope["path"], code=error.code)
                    cut(HTTPConnection(scope))
                    await leaving
                else:
                    body = answering.result() if error is None else _internal(error, scope["path"])
                    await send({"type": "http.response.body", "body": body, "more_body": False})
            finally:
                await _stop(answering, leaving)


async def attended(
    request: Request, sockets: Sockets, principal: Principal, work: Awaitable[Answer]
) -> Answer:
    """Wait for what a route needs before it answers, for as long as its caller stays.

    It counts as one of the caller's sockets; raises `ClientDisconnect`, `TooManyRequestsError`.
    """
    working: asyncio.Future[Answer] = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_left(request.receive))
    both: set[asyncio.Future[Any]] = {working, leaving}
    try:
        with sockets.opened(connection_of(request), principal, SILENT):
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise ClientDisconnect
    finally:
        await _stop(working, leaving)


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


async def _leave(on_disconnect: Leave | None, path: str) -> None:
    """Do what a client asked for when it leaves; it cannot be told that this failed."""
    if on_disconnect is None:
        return
    try:
        await on_disconnect()
    except TurnstreamError as error:
        _log.warning("nothing done for a client that left", path=path, code=error.code)
    except Exception as error:  # noqa: BLE001  nobody is left to answer
        unexpected.note("edge_disconnect", error, path=path)


def _cut_off(outlet: Outlet, error: BaseException, path: str) -> None:
    """End a stream that cannot go on: its client comes back with its cursor."""
    if isinstance(error, TurnstreamError):
        _log.warning("stream cut", path=path, code=error.code)
    else:
        error_id = unexpected.note("edge_stream", error, path=path)
        data = {"error": "internal", "message": unexpected_text(error, error_id)}
        outlet.write_raw(http_chunk(sse("error", encode(data))))
    outlet.close(INTERNAL_CLOSE_CODE, "internal")


def _internal(error: BaseException, path: str) -> bytes:
    """Return the answer to what broke unexpectedly, in the form of a failed run."""
    error_id = unexpected.note("edge_answer", error, path=path)
    return encode({"__error__": {"error": "internal", "message": unexpected_text(error, error_id)}})


async def _stop(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
