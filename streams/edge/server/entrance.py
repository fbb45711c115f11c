"""The first middleware of every request and socket: it refuses what may not enter.

- A request that would start a turn while the edge takes none gets a 503 before its caller is known
  and its body is read. So an overloaded edge spends its time on turns that run.
- A body has to be declared as JSON: a browser asks before it sends JSON across origins.
- An error that no route caught ends its own request or socket only.
"""

from __future__ import annotations

import contextlib
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.websockets import WebSocketDisconnect

from turnstream.schemas import unexpected
from turnstream.schemas.errors import (
    ForbiddenError,
    TurnstreamError,
    UnsupportedMediaTypeError,
)
from turnstream.streams.edge.server.connections import INTERNAL_CLOSE_CODE, cut
from turnstream.streams.edge.server.origins import check_host, check_origin
from turnstream.streams.edge.server.problems import (
    ProblemResponse,
    problem_answer,
    unexpected_problem,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from turnstream.streams.app.settings import Settings

_STARTS = re.compile(r"(?:/threads/[^/]+)?/runs(?:/stream|/wait)?|/runs/batch|/chat")
"""Paths of POST requests that start turns; `/commands` may also cancel, so it checks by itself."""
EXPOSED_HEADERS = (
    "Content-Location",
    "Last-Event-ID",
    "Location",
    "Retry-After",
    "WWW-Authenticate",
    "X-Accel-Buffering",
    "X-Pagination-Next",
    "X-Pagination-Total",
)


def install(app: FastAPI, settings: Settings, *, dev: bool, door: Door) -> None:
    """Put the entrance before an app's other middleware, and CORS before it if it is configured.

    `door` admits requests that start turns.
    """
    hosts = frozenset({urlsplit(settings.edge_url).hostname or ""} - {""})
    app.add_middleware(Entrance, dev=dev, origins=settings.allowed_origins, hosts=hosts, door=door)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=EXPOSED_HEADERS,
        )


class Door(Protocol):
    """Admits requests that start turns."""

    async def enter(self) -> None:
        """Count a request and wait for its turn; raises `UnavailableError` at once."""
        ...

    def turned_away(self) -> None:
        """Take back the count of a request that started nothing."""
        ...


class Entrance:
    """ASGI middleware: refuses what may not enter, and answers errors that no route caught."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        dev: bool,
        origins: tuple[str, ...],
        hosts: frozenset[str],
        door: Door,
    ) -> None:
        self._app = app
        self._door = door
        self._dev = dev
        self._origins = origins
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request or a socket on, or refuse it."""
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await self._socket(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = entered = False

        async def watched(message: Message) -> None:
            nonlocal started, entered
            started = True
            if entered and message.get("status", 0) >= HTTPStatus.BAD_REQUEST:
                entered = False
                self._door.turned_away()
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check(headers)
            check_json(headers)
            if scope["method"] == "POST" and _STARTS.fullmatch(scope["path"]):
                await self._door.enter()
                entered = True
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            return
        except TurnstreamError as error:
            await problem_answer(error)(scope, receive, send)
        except Exception as error:  # noqa: BLE001  one request ends, others go on
            problem = unexpected_problem("edge_request", error, path=scope["path"])
            if started:
                cut(HTTPConnection(scope))
            else:
                await ProblemResponse(problem)(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = False

        async def watched(message: Message) -> None:
            nonlocal accepted
            accepted = accepted or message["type"] == "websocket.accept"
            await send(message)

        try:
            self._check(Headers(scope=scope))
            await self._app(scope, receive, watched)
        except WebSocketDisconnect:
            return
        except TurnstreamError as error:
            await _close(send, error.close_code, error.code, accepted=accepted)
        except Exception as error:  # noqa: BLE001  one socket ends, others go on
            error_id = unexpected.note("edge_socket", error, path=scope["path"])
            await _close(send, INTERNAL_CLOSE_CODE, f"internal {error_id}", accepted=accepted)

    def _check(self, headers: Headers) -> None:
        if self._dev:
            if len(headers.getlist("host")) > 1:
                raise ForbiddenError("a request has exactly one Host header", code="host")
            check_host(headers, self._hosts)
            check_origin(headers, self._origins)


async def _close(send: Send, code: int, reason: str, *, accepted: bool) -> None:
    """Close a socket, accepted first: a browser can read a close code and no refused upgrade."""
    close = {"type": "websocket.close", "code": code, "reason": reason}
    with contextlib.suppress(RuntimeError, OSError):  # it is closed already
        if not accepted:
            await send({"type": "websocket.accept"})
        await send(close)


def check_json(headers: Mapping[str, str]) -> None:
    """Raise `UnsupportedMediaTypeError` (415) for a body that is not declared as JSON."""
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    declared = headers.get("content-type", "")
    media = declared.partition(";")[0].strip().lower()
    if media == "application/json" or (
        media.startswith("application/") and media.endswith("+json")
    ):
        return
    raise UnsupportedMediaTypeError(
        f"content-type is {declared[:100]!r}; send a JSON body as application/json"
    )
