"""uvicorn's protocol classes with the transport within reach, so that frames go straight to it.

Through ASGI's `send` a frame costs half as much again, and one reader that stalls makes everybody
wait. What is written here must leave the connection as the protocol class would have: whole frames
after the handshake and before the close, whole chunks inside a chunked body.

A connection and a request refer to each other while they last. At their ends these circles are
broken, so that no request waits for a garbage collection (`tests/streams/edge/test_cycles.py`).

uvicorn bounds neither a request's head nor the time that it takes. Here a head, the trailers of a
body, or bytes that the parser skips have at most `HEAD_BYTES_MAX`, and `Arrivals` ends what takes
too long.
"""

from __future__ import annotations

import weakref
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import SecurityError

from turnstream.streams.edge.server.problems import Problem, problem_bytes

if TYPE_CHECKING:
    import asyncio

    from starlette.requests import HTTPConnection
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState
    from websockets.frames import Frame

    from turnstream.streams.edge.server.arrivals import Arrivals

_KEY = "turnstream.connection"
INTERNAL_CLOSE_CODE = 1011
HEAD_BYTES_MAX = 64 << 10
DISCARD_BYTES_MAX = 64 << 20
"""What a client may go on sending after its request was answered; then the connection is cut."""
FRAGMENTS_MAX = 16_384
"""Frames of one WebSocket message; empty ones count."""
PONG_BUFFER_BYTES_MAX = 64 << 10
"""A peer that leaves as much unread gets no more pongs."""


class EdgeWebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket connection that finds itself in its scope's state."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        arrivals: Arrivals,
    ) -> None:
        super().__init__(config, server_state, {**app_state, _KEY: self}, _loop)
        self._arrivals = arrivals

    @property
    def writable_now(self) -> bool:
        """Say whether a data frame may be written."""
        return self.handshake_complete and not self.close_sent and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the caller to be known; `settle` ends the wait."""
        super().connection_made(transport)
        self._arrivals.wait(self, self._arrivals.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._arrivals.settle(self)
        super().connection_lost(exc)
        self.app_state = {}  # it is in there

    def settle(self) -> None:
        """Note that the caller is known: the socket may stay."""
        self._arrivals.settle(self)

    def time_out(self) -> None:
        """Drop a socket whose caller did not become known, or that does not answer its close."""
        self.transport.abort()

    evict = time_out

    def close_with(self, code: int, reason: str) -> None:
        """Send a close frame, unless one is sent, and let the peer answer it."""
        if not self.writable_now:
            return
        # as the base class does for ASGI's websocket.close
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    def data_received(self, data: bytes) -> None:
        """Take bytes; refuse an upgrade that cannot be parsed, which hangs in the base class."""
        super().data_received(data)
        error = self.conn.handshake_exc
        if self.handshake_initiated or error is None or self.close_sent:
            return
        self.close_sent = True
        if isinstance(error, SecurityError):
            answer = _refusal(431, "head_too_large", "a line or the count of headers is too large")
        else:
            answer = _refusal(400, "invalid_http", "the request is no WebSocket handshake")
        self.transport.write(answer)
        self.transport.close()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Bound what is left of a socket that is over: its close may find no reader."""
        super().on_task_complete(task)
        self.scope = {}  # type: ignore[typeddict-item]  # it is in there
        if not self.disconnected:
            self._arrivals.wait(self, 2 * self.close_timeout)

    def handle_cont(self, event: Frame) -> None:
        """Take one more fragment of a message; the base class bounds their bytes alone."""
        if len(self.frames) >= FRAGMENTS_MAX:
            if not self.close_sent:
                self.frames.clear()
                self.close_with(1009, "too many fragments")
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer a ping, unless the peer does not read the answers."""
        if self.transport.get_write_buffer_size() > PONG_BUFFER_BYTES_MAX:
            self.conn.data_to_send()
            return
        super().handle_ping()

    def shutdown(self) -> None:
        """Close with 1012 and wait for the peer: 1001 or a lost handshake would end its run."""
        if self.handshake_complete and not self.close_sent:
            self.stop_keepalive()
            self.close_with(1012, "restart")
        else:
            super().shutdown()


class EdgeHttpProtocol(HttpToolsProtocol):
    """An HTTP connection that finds itself in its scope's state."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        arrivals: Arrivals,
    ) -> None:
        super().__init__(config, server_state, {**app_state, _KEY: self}, _loop)
        self._arrivals = arrivals
        self._in_head = True
        self._whole = True  # the last message, up to its end
        self._moved = False
        self._still_bytes = 0  # taken since a head ended or a piece of a body came
        self._discarded = 0
        self._deaf = False  # answered for good: what still comes is thrown away
        self._watched = False  # by the sockets' watchdog
        self._upgraded = False
        self._unsent_bytes = 0

    @property
    def writable_now(self) -> bool:
        """Say whether the body may go on."""
        cycle = self.cycle
        return not (self.transport.is_closing() or cycle is None or cycle.response_complete)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or refuse it because there are too many."""
        super().connection_made(cast("asyncio.Transport", transport))
        if self._arrivals.room(len(self.connections)):
            self._arrivals.wait(self, self._arrivals.head_timeout_s)
        else:
            self.refuse(503, "too_many_connections", "this edge has as many as it takes")

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._arrivals.settle(self)
        super().connection_lost(exc)
        self._let_go()

    def _let_go(self) -> None:
        """Refer to nothing that refers to this connection; an app that still runs keeps its own."""
        self.app_state = {}
        self.parser = self.cycle = self.scope = None  # type: ignore[assignment]

    def settle(self) -> None:
        """Note that the sockets' watchdog looks after the answer, whose caller is known."""
        self._watched = True

    def pause_writing(self) -> None:
        """Wait for a peer that reads slowly, or not at all."""
        super().pause_writing()
        if not self._watched:
            self._unsent_bytes = self.transport.get_write_buffer_size()
            if self not in self._arrivals.waiting:
                self._arrivals.wait(self, self._arrivals.body_timeout_s)

    def resume_writing(self) -> None:
        """Go on with an answer whose peer reads."""
        super().resume_writing()
        if self._whole and self.writable_now:
            self._arrivals.settle(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, at most `HEAD_BYTES_MAX` at a time.

        Its cost grows with the square of what it holds on to: a head, a trailer.
        """
        at = 0
        while at < len(data) and not self._deaf:
            room = HEAD_BYTES_MAX - self._still_bytes
            part = data if at == 0 and len(data) <= room else data[at : at + room]
            at += len(part)
            self._moved = False
            super().data_received(part)
            if self._upgraded:
                self._let_go()
                return
            if self.transport.is_closing():
                return
            self._still_bytes = 0 if self._moved else self._still_bytes + len(part)
            if self._still_bytes >= HEAD_BYTES_MAX and not self._deaf:
                self._break_off(431, "head_too_large", f"{HEAD_BYTES_MAX} bytes are allowed")
        self._discard(len(data) - at)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection to the WebSocket class."""
        self._arrivals.settle(self)
        self._deaf = self._upgraded = True
        super().handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_head, self._whole, self._watched = True, False, False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is none (RFC 9110 §6.5.1)."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin a request's body."""
        self._in_head, self._moved = False, True
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            # its close must not reset a connection whose peer still sends
            self.cycle.transport = cast("asyncio.Transport", _Lingering(self, self.cycle))
            if self.expect_100_continue:
                self.cycle.keep_alive = False  # nobody knows whether a refused body follows
        self._arrivals.wait(self, self._arrivals.body_timeout_s)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body; of one that was answered already, nothing is kept."""
        self._moved = True
        if self.cycle is None or self.cycle.response_complete:
            self._discard(len(body))
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request: its answer takes the time that it takes."""
        self._whole = self._moved = True
        self._arrivals.settle(self)
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete:
            self._idle()

    def on_response_complete(self) -> None:
        """End an answer and wait for the next request; a part of it may be here."""
        super().on_response_complete()
        # of requests that came together the next one may have begun to run
        if (
            self.cycle is not None
            and self.cycle.response_complete
            and self not in self._arrivals.waiting
        ):
            self._idle()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        del msg
        self._break_off(400, "invalid_http", "the request is not valid HTTP/1.1")

    def time_out(self) -> None:
        """End a connection whose request did not arrive in time, or whose answer is not read."""
        unsent, before = self.transport.get_write_buffer_size(), self._unsent_bytes
        self._unsent_bytes = unsent
        if 0 < unsent < before:  # it is read, slowly
            self._arrivals.wait(self, self._arrivals.head_timeout_s)
        elif self._deaf or unsent:
            self.transport.abort()
        elif self._whole:  # it asks for nothing
            self.transport.close()
        elif self.pipeline:  # not read on until the request before it is answered
            self._arrivals.wait(self, self._arrivals.body_timeout_s)
        else:
            what = "head" if self._in_head else "body"
            self._break_off(408, "request_timeout", f"the request's {what} did not come in time")

    def evict(self) -> None:
        """Drop the connection: another needs its place."""
        self.transport.abort()

    def refuse(self, status: int, code: str, detail: str) -> None:
        """Answer for good, and read on for a while: a reset could overtake the answer."""
        self.transport.write(_refusal(status, code, detail))
        self.linger()

    def linger(self) -> None:
        """End what is written, and throw away what still comes, until the peer has closed."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        self._unset_keepalive_if_required()
        if self not in self._arrivals.waiting:
            self._arrivals.wait(self, self._arrivals.head_timeout_s)
        self.flow.resume_reading()
        self.transport.write_eof()

    def _break_off(self, status: int, code: str, detail: str) -> None:
        """Refuse what comes; an answer that is under way to an earlier request comes first."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self.refuse(status, code, detail)
        elif self.pipeline:
            self.transport.close()
        elif not cycle.more_body:  # it came before what is refused
            cycle.keep_alive = False
            self.flow.pause_reading()
        elif cycle.response_started:
            self.transport.close()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self.refuse(status, code, detail)

    def _idle(self) -> None:
        if not self._deaf:
            # also of one that closes: what is written may not be read
            self._unsent_bytes = self.transport.get_write_buffer_size()
            timeout_s = self.timeout_keep_alive + self._arrivals.head_timeout_s
            self._arrivals.wait(self, timeout_s)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > DISCARD_BYTES_MAX:
            self.transport.abort()


class _Lingering:
    """A connection's transport as a response sees it: a close lets the request's rest come."""

    def __init__(self, protocol: EdgeHttpProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = weakref.ref(cycle)  # it refers to this
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        """Close once the peer has sent its request, or stopped to."""
        cycle = self._cycle()
        if cycle is not None and cycle.response_complete and cycle.more_body:
            self._protocol.linger()
        else:
            self._protocol.transport.close()


Connection = EdgeWebSocketProtocol | EdgeHttpProtocol


def connection_of(connection: HTTPConnection) -> Connection:
    """Return the protocol object that carries a request or a socket."""
    return cast("Connection", connection.scope["state"][_KEY])


def cut(connection: HTTPConnection) -> None:
    """Break the connection off without the body's end: a client then comes back and resumes."""
    connection_of(connection).transport.close()


def _refusal(status: int, code: str, detail: str) -> bytes:
    """Return a whole answer with a problem body, for a connection that ends with it."""
    phrase = HTTPStatus(status).phrase
    retryable = status == HTTPStatus.SERVICE_UNAVAILABLE
    problem = Problem(title=phrase, status=status, code=code, detail=detail, retryable=retryable)
    body = problem_bytes(problem)
    again = "retry-after: 1\r\n" if retryable else ""
    head = (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n{again}connection: close\r\n\r\n"
    )
    return head.encode() + body
