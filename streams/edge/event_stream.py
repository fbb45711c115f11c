"""Answers that take their time: server-sent events, and JSON that is waited for.

A stream that ends before its run did is cut, not ended: the stock SDK takes a clean end for the end
of the run. So an error, or a shutdown, leaves the response unfinished and the server closes the
connection. What a client can still do then is resume.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send

# below the idle time-outs of common proxies (60 s)
HEARTBEAT_S = 15.0


class PatientResponse(Response):
    """A response whose body comes as it is made.

    `heartbeat` is sent after `heartbeat_s` without a piece. `on_disconnect` is awaited if the
    client left before the end, and never otherwise.
    """

    def __init__(
        self,
        body: AsyncIterator[bytes],
        *,
        media_type: str,
        heartbeat: bytes,
        headers: Mapping[str, str] | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        on_disconnect: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.media_type = media_type
        self.status_code = 200
        self.background = None
        self.init_headers(
            {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})}
        )
        self._body = body
        self._heartbeat = heartbeat
        self._heartbeat_s = heartbeat_s
        self._on_disconnect = on_disconnect

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Set the headers; there is no length."""
        self.body = b""
        super().init_headers(headers)
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body until it ends or the client leaves."""
        del scope
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            if await self._pump(send, gone):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif self._on_disconnect is not None:
                await self._on_disconnect()
        finally:
            gone.cancel()

    async def _pump(self, send: Send, gone: asyncio.Future[None]) -> bool:
        """Send pieces; return False if the client left."""
        pieces = aiter(self._body)
        piece = asyncio.ensure_future(_next(pieces))
        try:
            while True:
                await asyncio.wait(
                    (piece, gone), timeout=self._heartbeat_s, return_when=asyncio.FIRST_COMPLETED
                )
                if gone.done():
                    return False
                data: bytes | None = self._heartbeat
                if piece.done():
                    data = piece.result()
                    if data is None:
                        return True
                    piece = asyncio.ensure_future(_next(pieces))
                try:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                except OSError:
                    return False
        finally:
            await _stop(piece)
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()


def event_stream(
    body: AsyncIterator[bytes],
    *,
    headers: Mapping[str, str] | None = None,
    on_disconnect: Callable[[], Awaitable[None]] | None = None,
) -> PatientResponse:
    """Return a stream of server-sent events."""
    return PatientResponse(
        body,
        media_type="text/event-stream",
        heartbeat=b": still here\n\n",
        headers=headers,
        on_disconnect=on_disconnect,
    )


def json_later(
    body: AsyncIterator[bytes],
    *,
    headers: Mapping[str, str] | None = None,
    on_disconnect: Callable[[], Awaitable[None]] | None = None,
) -> PatientResponse:
    """Return a JSON answer that is waited for; white space before it keeps proxies patient."""
    return PatientResponse(
        body,
        media_type="application/json",
        heartbeat=b"\n",
        headers=headers,
        on_disconnect=on_disconnect,
    )


def sse(event: str, data: bytes, seq: int | None = None) -> bytes:
    """Return one server-sent event; `data` is JSON on one line."""
    head = b"" if seq is None else b"id: %d\n" % seq
    return b"%bevent: %b\ndata: %b\n\n" % (head, event.encode(), data)


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)


async def _stop(piece: asyncio.Future[bytes | None]) -> None:
    piece.cancel()
    await asyncio.wait((piece,))
    if not piece.cancelled():
        piece.exception()  # it was seen, or nobody waits for it any more


async def _disconnected(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
