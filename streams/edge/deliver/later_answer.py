"""JSON answers that a client waits for: to a run's end, and to what precedes an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import structlog
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response

from turnstream.schemas import unexpected
from turnstream.schemas.errors import TurnstreamError
from turnstream.streams.edge.deliver.departure import begin, leave, until_left
from turnstream.streams.edge.deliver.socket import JSON_HEARTBEAT, SILENT
from turnstream.streams.edge.server.connections import connection_of, cut
from turnstream.streams.edge.server.problems import unexpected_text
from turnstream.streams.edge.surfaces.encoding import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from turnstream.streams.edge.deliver.departure import Leave
    from turnstream.streams.edge.deliver.fanout import Sockets
    from turnstream.streams.edge.server.auth import Principal

Answer = TypeVar("Answer")

_log = structlog.get_logger(__name__)


class LaterAnswer(Response):
    """A JSON answer that comes later; white space before it keeps proxies from timing out.

    It counts as one of the caller's sockets, and the watchdog ends it when the caller's token
    expires. The status is always 200, because it is sent before the answer is known.
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
        """Send the answer as soon as it is known."""
        path: str = scope["path"]
        connection = connection_of(HTTPConnection(scope))
        with self._sockets.opened(connection, self._principal, SILENT) as outlet:
            await begin(self, send, b"\n")
            outlet.heartbeat = JSON_HEARTBEAT
            async with until_left(self._answer(), receive) as (answering, leaving):
                if not answering.done():
                    await leave(self._on_disconnect, path)
                elif isinstance(error := answering.exception(), TurnstreamError):
                    _log.warning("answer_cut", path=path, code=error.code)
                    cut(HTTPConnection(scope))
                    await leaving
                else:
                    body = answering.result() if error is None else _internal(error, path)
                    await send({"type": "http.response.body", "body": body, "more_body": False})


async def attended(
    request: Request, sockets: Sockets, principal: Principal, work: Callable[[], Awaitable[Answer]]
) -> Answer:
    """Wait for what a route needs before it answers, as long as the caller stays.

    It counts as one of the caller's sockets. Raises `ClientDisconnect`, `TooManyRequestsError`.
    """
    with sockets.opened(connection_of(request), principal, SILENT):
        async with until_left(work(), request.receive) as (working, _):
            if working.done():
                return working.result()
            raise ClientDisconnect


def _internal(error: BaseException, path: str) -> bytes:
    """Return the answer for an unexpected error, in the form of a failed run."""
    error_id = unexpected.note("edge_answer", error, path=path)
    return encode({"__error__": {"error": "internal", "message": unexpected_text(error, error_id)}})
