"""One client of the scripted server: its requests one after another, and their answers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

import msgspec

from turnstream.deploy.local.scripted.answer import (
    Answer,
    Request,
    answer_of,
    fault_in_history,
    script_of,
)
from turnstream.deploy.local.scripted.bodies import frames_of, whole_body
from turnstream.deploy.local.scripted.http_request import Refusal, Requests
from turnstream.deploy.local.scripted.metrics import metrics_text
from turnstream.deploy.local.scripted.stream import Stream

if TYPE_CHECKING:
    from turnstream.deploy.local.scripted.script import Script
    from turnstream.deploy.local.scripted.server import ScriptedServer

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 413: "Too Large"}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
_CONTEXT = (
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens. "
    "Please reduce the length of the messages."
)


class Connection(asyncio.Protocol):
    """One client connection: reads requests one after another, writes their answers."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.full = False
        self._transport: asyncio.Transport
        self._requests = Requests()
        self._busy = False
        self._request = Request(messages=[])
        self._script: Script
        self._answer: Answer
        self._stream: Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """Free the slot: what a model server does when its client leaves."""
        self.server.connections.discard(self)
        if self._stream is not None:
            self._stream.is_gone = True
        self.server.leave(self, answered=False)

    def pause_writing(self) -> None:
        """Hold back: the client reads too slowly."""
        self.full = True

    def resume_writing(self) -> None:
        """Go on writing."""
        self.full = False
        if self._stream is not None and self._stream.parked:
            self.server.wheel.add(self._stream)

    def data_received(self, data: bytes) -> None:
        """Collect bytes until a request is whole."""
        self._requests.add(data)
        if not self._busy:
            self._take()

    def _take(self) -> None:
        request = self._requests.take()
        if isinstance(request, Refusal):
            self._busy = True  # nothing else of this connection is read
            self._reply(request.status, _error(request.status, request.message))
            self._transport.close()
            return
        if self._requests.continues:
            self._requests.continues = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request is None:
            return
        self._busy = True
        if self.server.api_key and request.key != self.server.api_key.encode():
            self._refuse(401, "invalid API key")
        else:
            self._route(request.method, request.path, request.body)

    def _route(self, method: bytes, path: bytes, body: bytes) -> None:
        if (method, path) == (b"POST", b"/v1/chat/completions"):
            self._chat(body)
        elif (method, path) == (b"GET", b"/v1/models"):
            entry = {"id": self.server.model, "object": "model", "owned_by": "turnstream"}
            self._answered(200, msgspec.json.encode({"object": "list", "data": [entry]}))
        elif (method, path) == (b"GET", b"/health"):
            self._answered(200, b"{}")
        elif (method, path) == (b"GET", b"/metrics"):
            self._answered(200, metrics_text(self.server).encode(), "text/plain; version=0.0.4")
        else:
            self._refuse(404, "no such route")

    def _chat(self, body: bytes) -> None:
        try:
            self._request = msgspec.json.decode(body, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._refuse(400, str(error))
            return
        server, request = self.server, self._request
        server.requests.append(request)
        server.served += 1
        script = script_of(request)
        if script.fails and 0 <= script.error_times <= server.failures[text_key(request)]:
            script = script.without_faults()
        self._script = script
        server.failures[text_key(request)] += script.fails
        fault = fault_in_history(request.messages)
        if script.hangup:
            self._transport.abort()
        elif script.error:
            self._fail(script)
        elif fault:
            self._refuse(400, fault)
        else:
            self._answer = answer_of(request, script, server.served)
            server.prompt_tokens += self._answer.prompt_tokens
            server.begin(self)

    def run(self) -> None:
        """Answer; called when the request has its slot."""
        head = {
            "id": f"chatcmpl-{self.server.served}",
            "created": int(time.time()),
            "model": self._request.model or self.server.model,
        }
        if not self._request.stream:
            self._answered(200, whole_body(head, self._answer, self._script))
            self.server.leave(self, answered=True)
            return
        usage = bool((self._request.stream_options or {}).get("include_usage"))
        parts = frames_of(self._answer, self._script, head, usage=usage)
        self._transport.write(_STREAM_HEAD)
        self._stream = Stream(self, self._script, time.monotonic(), parts)
        self.server.wheel.add(self._stream)

    def write(self, data: bytes) -> None:
        """Write some bytes of the stream."""
        self._transport.write(data)

    def cut(self) -> None:
        """Close the connection without an end of the answer."""
        self._transport.abort()

    def ended(self, *, finished: bool) -> None:
        """Count the answer and take the next request; a stalled one keeps its slot."""
        if not finished:
            return
        self.server.generation_tokens += len(self._answer.pieces)
        self.server.finished[self._answer.finish_reason] += 1
        self._stream = None
        self.server.leave(self, answered=True)
        self._next()

    def _fail(self, script: Script) -> None:
        more = f"retry-after: {script.retry_after:g}\r\n" if script.retry_after else ""
        if script.error == "context":
            self._refuse(400, _CONTEXT, more)
        else:
            status = int(script.error) if script.error.isdigit() else 500
            self._refuse(status, "scripted error", more)

    def _refuse(self, status: int, message: str, more: str = "") -> None:
        self._answered(status, _error(status, message), more=more)

    def _answered(
        self, status: int, body: bytes, kind: str = "application/json", more: str = ""
    ) -> None:
        self._reply(status, body, kind, more)
        self._next()

    def _reply(
        self, status: int, body: bytes, kind: str = "application/json", more: str = ""
    ) -> None:
        head = (
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\n{more}\r\n"
        )
        self._transport.write(head.encode() + body)

    def _next(self) -> None:
        self._busy = False
        if self._requests:
            self._take()


def _error(status: int, message: str) -> bytes:
    error = {"message": message, "type": "scripted", "code": status}
    return msgspec.json.encode({"error": error})


def text_key(request: Request) -> str:
    """Return what tells one scripted failure from another: the last message."""
    return msgspec.json.encode(request.messages[-1:]).decode()
