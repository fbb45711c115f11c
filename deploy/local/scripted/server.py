"""A scripted OpenAI-compatible server, for tests, benches and a first look without a model.

`python -m turnstream.deploy.local.scripted.server --port 8000`, or `async with ScriptedServer()`.
Serves `POST /v1/chat/completions` (stream or not), `GET /v1/models`, `/health`, and `/metrics`
under vLLM's names. What it answers is told by directives in the model's name or the last user
message: see `script.py`. It refuses a history that vLLM or OpenAI would refuse.

An asyncio protocol of its own, because it stands in benches at 10,000 tokens a second, where its
CPU must be small. HTTP/1.1 with Content-Length bodies only, no TLS.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Self, cast

import msgspec

from turnstream.deploy.local.scripted.answer import (
    Answer,
    Request,
    answer_of,
    fault_in_history,
    script_of,
)
from turnstream.deploy.local.scripted.metrics import metrics_text
from turnstream.deploy.local.scripted.stream import Stream, Wheel, frames_of, usage_of

if TYPE_CHECKING:
    from types import TracebackType

    from turnstream.deploy.local.scripted.script import Script

HEAD_BYTES_MAX = 64 << 10
BODY_BYTES_MAX = 64 << 20
REQUESTS_KEPT = 1000
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 413: "Too Large"}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
_CONTEXT = (
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens. "
    "Please reduce the length of the messages."
)


class ScriptedServer:
    """The server; `slots` requests run at once (0: all), the rest wait as vLLM's queue does.

    For tests: `requests` holds the last 1,000 bodies, `aborted` counts answers whose client left.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        model: str = "scripted",
        api_key: str = "",
        slots: int = 0,
    ) -> None:
        self.host, self.port = host, port
        self.model = model
        self.api_key = api_key
        self.slots = slots
        self.requests: deque[Request] = deque(maxlen=REQUESTS_KEPT)
        self.running: set[Connection] = set()
        self.waiting: deque[Connection] = deque()
        self.connections: set[Connection] = set()
        self.served = 0
        self.aborted = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()  # how often a message was answered by an error
        self.wheel: Wheel
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        """Return the base URL for clients, with `/v1`."""
        return f"http://{self.host}:{self.port}/v1"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.wheel = Wheel()
        self._server = await loop.create_server(
            lambda: Connection(self), self.host, self.port, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wheel.close()
        self._server.close()
        for connection in tuple(self.connections):
            connection.cut()
        await self._server.wait_closed()

    def begin(self, connection: Connection) -> None:
        """Give the connection a slot, or let it wait for one."""
        if self.slots and len(self.running) >= self.slots:
            self.waiting.append(connection)
            return
        self.running.add(connection)
        connection.run()

    def leave(self, connection: Connection, *, answered: bool) -> None:
        """Take the connection's slot back and give it to the next."""
        if connection in self.running:
            self.running.discard(connection)
        elif connection in self.waiting:
            self.waiting.remove(connection)
        else:
            return
        self.aborted += not answered
        if self.waiting and (not self.slots or len(self.running) < self.slots):
            following = self.waiting.popleft()
            self.running.add(following)
            following.run()


class Connection(asyncio.Protocol):
    """One client connection: reads requests one after another, writes their answers."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.full = False
        self._transport: asyncio.Transport
        self._buffer = b""
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
        self._buffer += data
        if not self._busy:
            self._take()

    def _take(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                self._refuse(413, "headers too large")
                self._transport.close()
            return
        lines = self._buffer[:end].split(b"\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        try:
            method, target, _ = lines[0].split(b" ")
            length = int(headers.get(b"content-length", b"0"))
        except ValueError:
            length = -1
        if length < 0 or length > BODY_BYTES_MAX or b"transfer-encoding" in headers:
            self._refuse(400, "a request needs a Content-Length")
            self._transport.close()
            return
        if len(self._buffer) < end + 4 + length:
            if headers.get(b"expect", b"").lower() == b"100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._buffer = self._buffer.replace(b"100-continue", b"", 1)
            return
        body = self._buffer[end + 4 : end + 4 + length]
        self._buffer = self._buffer[end + 4 + length :]
        self._busy = True
        key = self.server.api_key
        if key and headers.get(b"authorization") != b"Bearer " + key.encode():
            self._refuse(401, "invalid API key")
        else:
            self._route(method, target.split(b"?")[0], body)

    def _route(self, method: bytes, path: bytes, body: bytes) -> None:
        if (method, path) == (b"POST", b"/v1/chat/completions"):
            self._chat(body)
        elif (method, path) == (b"GET", b"/v1/models"):
            entry = {"id": self.server.model, "object": "model", "owned_by": "turnstream"}
            self._reply(200, msgspec.json.encode({"object": "list", "data": [entry]}))
        elif (method, path) == (b"GET", b"/health"):
            self._reply(200, b"{}")
        elif (method, path) == (b"GET", b"/metrics"):
            self._reply(200, metrics_text(self.server).encode(), "text/plain; version=0.0.4")
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
            self._reply(200, whole_body(head, self._answer, self._script))
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
        error = {"message": message, "type": "scripted", "code": status}
        self._reply(status, msgspec.json.encode({"error": error}), more=more)

    def _reply(
        self, status: int, body: bytes, kind: str = "application/json", more: str = ""
    ) -> None:
        head = (
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\n{more}\r\n"
        )
        self._transport.write(head.encode() + body)
        self._next()

    def _next(self) -> None:
        self._busy = False
        if self._buffer:
            self._take()


def text_key(request: Request) -> str:
    """Return what tells one scripted failure from another: the last message."""
    return msgspec.json.encode(request.messages[-1:]).decode()


def whole_body(head: dict[str, Any], answer: Answer, script: Script) -> bytes:
    """Return the body of an answer that is not streamed."""
    calls: dict[int, dict[str, Any]] = {}
    for piece in answer.pieces:
        if piece.kind == "tool_args":
            call = calls.setdefault(
                piece.index,
                {
                    "id": piece.tool_call_id,
                    "type": "function",
                    "function": {"name": piece.tool_name, "arguments": ""},
                },
            )
            call["function"]["arguments"] += piece.text
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(piece.text for piece in answer.pieces if piece.kind == "text"),
    }
    if answer.reasoning_tokens:
        message[script.reasoning_field] = "".join(
            piece.text for piece in answer.pieces if piece.kind == "reasoning"
        )
    if calls:
        message["tool_calls"] = list(calls.values())
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    body = {"object": "chat.completion", **head, "choices": [choice]}
    if script.usage:
        body["usage"] = usage_of(answer)
    return msgspec.json.encode(body)


async def serve(host: str, port: int, slots: int) -> None:
    """Serve until SIGINT or SIGTERM; prints the URL when it is ready."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ScriptedServer(host=host, port=port, slots=slots) as server:
        print(server.url, flush=True)  # noqa: T201  a program's one line for whoever started it
        await stop.wait()


def main() -> None:
    """Run the server as a program."""
    import uvloop  # noqa: PLC0415  only the program needs it

    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible server.")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one")
    parser.add_argument("--slots", type=int, default=0, help="requests at once; 0: no limit")
    given = parser.parse_args()
    uvloop.run(serve(given.host, given.port, given.slots))


if __name__ == "__main__":
    main()
