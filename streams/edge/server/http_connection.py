"""uvicorn's HTTP protocol class, with bounds that it lacks and its transport within reach.

uvicorn bounds neither the size of a request's head nor the time that a request takes to arrive.
Here a head, the trailers of a body, or bytes that the parser skips have at most `HEAD_BYTES_MAX`,
and `Arrivals` ends what takes too long.

A connection and a request refer to each other while they last. At their ends these cycles are
broken, so that no request waits for a garbage collection
(`tests/streams/edge/server/test_cycles.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from turnstream.streams.edge.server.connections import STATE_KEY
from turnstream.streams.edge.server.lingering import Lingering
from turnstream.streams.edge.server.refusal import refusal

if TYPE_CHECKING:
    import asyncio

    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from turnstream.streams.edge.server.arrivals import Arrivals

HEAD_BYTES_MAX = 64 << 10
DISCARD_BYTES_MAX = 64 << 20
"""Bytes that a client may still send after its request was answered; then the connection is cut."""


class EdgeHttpProtocol(HttpToolsProtocol):
    """An HTTP connection that finds itself in its scope's state."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        arrivals: Arrivals,
    ) -> None:
        super().__init__(config, server_state, {**app_state, STATE_KEY: self}, _loop)
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
            self.cycle.transport = cast("asyncio.Transport", Lingering(self, self.cycle))
            if self.expect_100_continue:
                self.cycle.keep_alive = False  # a refused body may or may not follow
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
        self.transport.write(refusal(status, code, detail))
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
