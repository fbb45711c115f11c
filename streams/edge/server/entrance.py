"""Where every request and socket enters: who may send it from where, and what no route caught.

A request that would start a turn while none is taken ends here as well (503), before its caller is
known and its body read: an edge that is asked ten times too much spends its time on turns that run.

A browser sends requests to this edge in the name of any page. With tokens that is harmless, because
a page has none. Without authentication (dev mode) the edge therefore takes loopback hosts only, so
that no foreign name leads here (DNS rebinding), and refuses foreign origins on every route. A body
has to be declared as JSON in both modes: browsers ask before they send that across origins.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
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
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
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
    """Put the entrance before an app's other middleware, and CORS before it where it is set.

    `door`: of requests that start turns.
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
    """What lets requests in that start turns."""

    async def enter(self) -> None:
        """Count a request and wait for its turn, or raise an `UnavailableError` at once."""
        ...

    def turned_away(self) -> None:
        """Count a request no more that started nothing."""
        ...


class Entrance:
    """ASGI middleware: refuse what may not enter, and answer for what no route caught."""

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
        except Exception as error:  # noqa: BLE001  one request ends, its neighbours do not notice
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
        except Exception as error:  # noqa: BLE001  one socket ends, its neighbours do not notice
            error_id = unexpected.note("edge_socket", error, path=scope["path"])
            await _close(send, INTERNAL_CLOSE_CODE, f"internal {error_id}", accepted=accepted)

    def _check(self, headers: Headers) -> None:
        if self._dev:
            if len(headers.getlist("host")) > 1:
                raise ForbiddenError("a request has one host", code="host")
            check_host(headers, self._hosts)
            check_origin(headers, self._origins)


async def _close(send: Send, code: int, reason: str, *, accepted: bool) -> None:
    """Close a socket; a browser reads no status of a refused upgrade, but a close code."""
    close: dict[str, Any] = {"type": "websocket.close", "code": code, "reason": reason}
    with contextlib.suppress(RuntimeError, OSError):  # it is closed already
        if not accepted:
            await send({"type": "websocket.accept"})
        await send(close)


def check_host(headers: Mapping[str, str], others: frozenset[str] = frozenset()) -> None:
    """Raise `ForbiddenError` (`host`) for a name that is neither loopback nor one of `others`.

    Browsers always send the name under which they reached the edge.
    """
    host = headers.get("host")
    if host is None:
        return
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        name = ""
    if is_loopback(name) or name.endswith(".localhost") or name in others:
        return
    raise ForbiddenError(
        f"host {host[:100]!r} is not served without authentication: use localhost, or name it in"
        " TURNSTREAM_EDGE_URL",
        code="host",
    )


def check_origin(headers: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    """Raise `ForbiddenError` (`origin`) for a browser's origin that is neither allowed nor ours.

    Only browsers send `Origin`; others are checked by the token alone.
    """
    origin = headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return
    if not _same_host(origin, headers.get("host", "")):
        raise ForbiddenError(
            f"origin {origin[:100]!r} is not allowed; TURNSTREAM_ALLOWED_ORIGINS names those that"
            " are",
            code="origin",
        )


def check_same_site(headers: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    """Raise `ForbiddenError` (`origin`) for a GET with effects that a foreign page makes.

    A browser sends no `Origin` for an image or a link, but says in `Sec-Fetch-Site` where it is.
    """
    check_origin(headers, allowed)
    site = headers.get("sec-fetch-site", "none")
    if headers.get("origin") is None and site not in {"none", "same-origin"}:
        raise ForbiddenError(f"a page of another origin ({site[:20]!r}) may not", code="origin")


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
        f"content-type {declared[:100]!r}: bodies are JSON, send application/json"
    )


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address; other names may lead out."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _same_host(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        ours = urlsplit(f"//{host}")
        return parts.hostname == ours.hostname and port == (
            ours.port or _DEFAULT_PORTS.get(parts.scheme)
        )
    except ValueError:
        return False
