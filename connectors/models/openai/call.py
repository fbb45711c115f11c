"""One call of a model server: its time-outs, its reading loop, and the judgement of its end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from turnstream.connectors.models.openai.deltas import DeltaParser
from turnstream.connectors.models.openai.endings import Ending, is_at_limit
from turnstream.connectors.models.openai.refusals import error_of_event, error_of_response, shown
from turnstream.connectors.models.openai.request import CHAT_PATH, request_body
from turnstream.schemas.chat import ChatAnswer
from turnstream.schemas.errors import (
    ModelBadResponseError,
    ModelDeclinedError,
    ModelError,
    ModelFirstTokenTimeoutError,
    ModelOverloadedError,
    ModelStreamCutError,
    ModelTokenGapTimeoutError,
    ModelUnreachableError,
)
from turnstream.schemas.unexpected import note

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnstream.connectors.models.http.connection import Connection
    from turnstream.connectors.models.http.transport import HttpTransport
    from turnstream.schemas.chat import ChatRequest, Delta

_log = structlog.get_logger(__name__)

END_WAIT_S = 2.0
"""Seconds to wait, after an answer's last event, for the end of its HTTP body. The connection of a
body that has not ended by then is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """Bounds of one client.

    `first_token_timeout_s` runs from the request to the first delta, the wait for a connection
    included; `token_gap_timeout_s` between two events after that. `connections_max` should not be
    below the turns of a worker.
    """

    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 60.0
    token_gap_timeout_s: float = 30.0
    connections_max: int = 512
    answer_bytes_max: int = 32 << 20
    error_bytes_max: int = 64 << 10


@dataclass(slots=True)
class Server:
    """A model server: where it is, and what its calls share. `key` is never shown."""

    url: str
    model: str
    key: str
    http: HttpTransport
    limits: ModelLimits

    def unreachable(self, error: OSError) -> ModelError:
        """Log the server's address, and return an error without it."""
        why = type(error).__name__
        if type(error).__module__ == "builtins" and isinstance(error.errno, int):
            why = os.strerror(error.errno)
        _log.warning("model_server_unreachable", url=self.url, error=str(error) or why)
        return ModelUnreachableError(f"the model server cannot be reached: {why}")


class Call:
    """One request: its time-outs and the reading loop."""

    def __init__(
        self, server: Server, request: ChatRequest, push: Callable[[list[Delta]], None]
    ) -> None:
        self.server = server
        self.model = request.model or server.model
        self.body = request_body(request, self.model)
        self.headers = {"x-request-id": request.request_id} if request.request_id else {}
        self.push = push
        self.pushed = self.ending = False
        self.parser = DeltaParser({tool.name for tool in request.tools})
        self.loop = asyncio.get_running_loop()
        self.last = 0.0  # loop time of the last event
        self._watch: asyncio.TimerHandle | None = None

    async def run(self) -> ChatAnswer:
        """Make the request and read its answer."""
        limits = self.server.limits
        try:
            async with asyncio.timeout(None) as deadline:
                first = self.loop.time() + limits.first_token_timeout_s
                self._watch = self.loop.call_at(first, deadline.reschedule, first)
                return await self._read(deadline)
        except TimeoutError as error:
            if self.parser.whole:  # only the end of the body is missing
                return self._conclude({})
            if self.pushed:
                raise ModelTokenGapTimeoutError(
                    "the model server sent nothing for "
                    f"{limits.token_gap_timeout_s:g} s between two tokens"
                ) from error
            raise ModelFirstTokenTimeoutError(
                "the model server sent nothing for "
                f"{limits.first_token_timeout_s:g} s before the first token"
            ) from error
        finally:
            if self._watch is not None:
                self._watch.cancel()

    def watch_gap(self, deadline: asyncio.Timeout) -> None:
        """Time out a gap between two events.

        Looks at the last event and sets itself again, so that a token costs no timer.
        """
        if self._watch is not None:
            self._watch.cancel()
        at = self.last + self.server.limits.token_gap_timeout_s
        if self.loop.time() >= at:
            deadline.reschedule(at)
        else:
            self._watch = self.loop.call_at(at, self.watch_gap, deadline)

    def expect_end(self, deadline: asyncio.Timeout) -> None:
        """Wait at most `END_WAIT_S` for the end of the body."""
        if self.ending:
            return
        self.ending = True
        if self._watch is not None:
            self._watch.cancel()
        deadline.reschedule(self.loop.time() + END_WAIT_S)

    async def _read(self, deadline: asyncio.Timeout) -> ChatAnswer:
        server = self.server
        headers: dict[str, str] | None = None
        try:
            async with server.http.post(CHAT_PATH, self.body, self.headers) as response:
                headers = response.headers
                if not response.ok:
                    body = await body_of(response, server.limits.error_bytes_max)
                    raise error_of_response(response.status, body, headers, key=server.key)
                await response.read_into(_Reading(self, self.parser, deadline).feed)
        except _EndedError:
            pass
        except OSError as error:
            if headers is None:
                raise server.unreachable(error) from error
            # its end is judged below: a server may drop the connection after a whole answer
        return self._conclude(headers or {})

    def _conclude(self, headers: dict[str, str]) -> ChatAnswer:
        """Push the last deltas, and return the answer if it is whole."""
        parser = self.parser
        try:
            deltas = parser.end()
        except ModelError:
            raise
        except Exception as error:
            raise _unreadable(error) from error
        if deltas:
            self.push(deltas)
        self._check(headers)
        return ChatAnswer(
            finish_reason=parser.finish_reason,
            model=parser.model or self.model,
            request_sha256=hashlib.sha256(self.body).hexdigest(),
            at_limit=is_at_limit(parser.finish_reason),
            usage=parser.usage,
        )

    def _check(self, headers: dict[str, str]) -> None:
        """Raise the error of an answer that is not whole."""
        parser, key = self.parser, self.server.key
        if parser.error is not None:
            raise error_of_event(parser.error, headers, key=key)
        ending = parser.ending
        if parser.refusal or ending is Ending.REFUSED:
            why = shown(parser.refusal, key) or f"finish_reason {parser.finish_reason!r}"
            raise ModelDeclinedError(f"the model refused to answer: {why}")
        if ending is Ending.BROKEN:
            raise ModelOverloadedError(
                f"the model server failed: finish_reason {parser.finish_reason!r}",
                code="model_http_500",
            )
        if parser.whole:
            return
        kind = headers.get("content-type", "").lower()
        if not parser.began and not ("event-stream" in kind or ("json" in kind and parser.cut)):
            raise ModelBadResponseError("the model server's answer is no event stream")
        why = f": finish_reason {parser.finish_reason!r}" if ending is Ending.CUT else ""
        raise ModelStreamCutError(f"the model server's answer ended in the middle{why}")


class _EndedError(Exception):
    """Nothing more of the body matters."""


class _Reading:
    """Handles each network read of an answer: the hot path of a worker."""

    __slots__ = ("_call", "_deadline", "_parser", "_room", "_seen")

    def __init__(self, call: Call, parser: DeltaParser, deadline: asyncio.Timeout) -> None:
        self._call = call
        self._parser = parser
        self._deadline = deadline
        self._room = call.server.limits.answer_bytes_max
        self._seen = 0

    def feed(self, data: bytes) -> None:
        """Take the bytes of one read, and push its deltas before returning."""
        call, parser = self._call, self._parser
        try:
            deltas = parser.feed(data)
        except ModelError:
            raise
        except Exception as error:
            raise _unreadable(error) from error
        if parser.seen != self._seen:  # comments are no sign of life
            self._seen = parser.seen
            call.last = call.loop.time()
        if deltas:
            if not call.pushed:
                call.pushed = True
                call.watch_gap(self._deadline)
            call.push(deltas)
        self._room -= len(data)
        if self._room < 0:
            limit = call.server.limits.answer_bytes_max
            raise ModelBadResponseError(f"the answer is above {limit} B")
        if parser.over:
            if parser.error is not None:
                raise _EndedError
            call.expect_end(self._deadline)


def _unreadable(error: Exception) -> ModelError:
    """Count an error of the reader itself, and return what ends the call."""
    error_id = note("model_answer", error)
    return ModelBadResponseError(f"the model server's answer cannot be read: error {error_id}")


async def body_of(response: Connection, bytes_max: int) -> bytes:
    """Return the first `bytes_max` bytes of a body."""
    body = bytearray()

    def take(data: bytes) -> None:
        body.extend(data[: bytes_max - len(body)])
        if len(body) >= bytes_max:
            raise _EndedError

    with contextlib.suppress(_EndedError):
        await response.read_into(take)
    return bytes(body)
