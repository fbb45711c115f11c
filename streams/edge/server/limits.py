"""Limits of a caller: requests a second, bytes a body. Pure except for a clock.

aiolimiter takes 1.8 times the CPU per request in one run with `RequestRate`
(`python -m tests.bench --only parts`), and waits where an edge has to refuse.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from turnstream.schemas.errors import TooManyRequestsError
from turnstream.streams.edge.server.problems import Problem, ProblemResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from turnstream.streams.edge.server.auth import Principal

USERS_REMEMBERED_MAX = 10_000


class RequestRate:
    """Token buckets, one a user: `per_s` requests a second on average, twice as many at once."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, principal: Principal, requests: int = 1) -> None:
        """Count requests; raises `TooManyRequestsError` (`too_many_requests`)."""
        now = self._clock()
        user = (principal.tenant, principal.user)
        left, at = self._buckets.get(user, (2 * self._per_s, now))
        left = min(2 * self._per_s, left + (now - at) * self._per_s)
        allowed = left >= requests
        self._buckets[user] = (left - requests if allowed else left, now)
        self._buckets.move_to_end(user)
        if len(self._buckets) > USERS_REMEMBERED_MAX:
            self._buckets.popitem(last=False)
        if not allowed:
            raise TooManyRequestsError(f"{self._per_s:g} requests a second are allowed")


class BodyLimit:
    """ASGI middleware: answers 413 for a body above `bytes_max`, whatever its headers say."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._bytes_max:
            await self._refuse(scope, receive, send)
            return
        seen = 0
        started = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._bytes_max:
                raise _TooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooLargeError:
            if started:
                raise
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = Problem(
            title="Content Too Large",
            status=413,
            code="body_too_large",
            detail=f"a body may have at most {self._bytes_max} bytes",
        )
        await ProblemResponse(problem, {"connection": "close"})(scope, receive, send)


class _TooLargeError(BaseException):
    """Derives from BaseException, so that no handler on its way catches it."""
