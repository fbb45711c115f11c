"""One HTTP/1.1 connection to a model server: from its bytes to answers, by httptools' parser.

Bytes of a body go to their reader from the transport's callback. A client of general use wakes a
task for each network read. `python -m tests.bench --only parts` compares in one run: with our
reader behind both, aiohttp takes 1.67 times the CPU per event; httpx with httpx-sse 9.9 times.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import httptools

from turnstream.connectors.models.http.bodies import decompressing
from turnstream.schemas.errors import ModelBadResponseError

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD_BYTES_MAX = 64 << 10
_INFORMATIONAL_MAX = 199


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time.

    `heard`: whether anything came since the request. `feed` is called with the body's bytes of each
    network read, once it is set; what it raises ends the exchange.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.lost = False
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpResponseParser | None = None
        self._headed: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None

    def begin(self, request: bytes) -> None:
        """Send a request; the exchange before it is over."""
        self.heard = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.feed: Callable[[bytes], None] | None = None
        self._chunks: list[bytes] = []
        self._head_bytes = 0
        self._complete = self._keeps = self._until_close = False
        self._parser = httptools.HttpResponseParser(self)
        self._headed = self._loop.create_future()
        self._ended = self._loop.create_future()
        self.transport.write(request)

    async def head(self) -> None:
        """Wait for status and headers. Raises `OSError` or `ModelBadResponseError`."""
        if self._headed is None:
            raise RuntimeError("no exchange has begun")
        await self._headed

    async def read_into(self, feed: Callable[[bytes], None]) -> None:
        """Hand the body to `feed` until its end; raises as `head`, or what `feed` raises."""
        if self._ended is None:
            raise RuntimeError("no exchange has begun")
        try:
            self.feed = feed = decompressing(self.headers.get("content-encoding", ""), feed)
        except BaseException:
            self.transport.abort()
            raise
        chunks, self._chunks = self._chunks, []
        try:
            if chunks:
                feed(b"".join(chunks))
        except BaseException:
            self.transport.abort()
            raise
        await self._ended

    def forget(self) -> None:
        """Drop the exchange: its errors hold frames, and the frames hold this connection."""
        self.feed = self._parser = self._headed = self._ended = None

    @property
    def ok(self) -> bool:
        """Whether the answer's status is 2xx."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def reusable(self) -> bool:
        """Whether the exchange is over and the server keeps the connection."""
        return self._complete and self._keeps and not self.lost

    # -- what the loop calls -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse, and hand the body over."""
        # no local name for the future: it holds the reader's error, and that holds this frame
        if self._parser is None or self._ended is None or self._ended.done():
            self.transport.abort()  # no request is open
            return
        self.heard = True
        try:
            self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001  httptools' errors have no root of their own
            self._keeps = False
            if not self._complete:  # what follows a whole answer does not matter
                self._fail(ModelBadResponseError(f"no HTTP answer: {type(error).__name__}"))
                return
        if not self._chunks:  # a head, or what follows a body's last chunk
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._fail(ModelBadResponseError(f"an answer's head above {HEAD_BYTES_MAX} bytes"))
                return
        elif self.feed is not None:
            self._hand_over(self.feed)
        if self._complete:
            _settle(self._ended)

    def connection_lost(self, error: Exception | None) -> None:
        """End the exchange; without an error if the connection's end is the end of the body."""
        self.lost = True
        ended = self._ended
        if ended is None or ended.done():
            return
        if error is None and self._until_close:  # set with the head
            _settle(ended)
        else:
            self._fail(error or ConnectionResetError("the server closed the connection"))

    # -- what the parser calls -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin an answer, maybe after an informational one."""
        if self._complete:
            raise ConnectionError("a second answer to one request")
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Wake the task that waits for the head."""
        if self._parser is None or self._headed is None:
            return
        self.status = self._parser.get_status_code()
        if self.status > _INFORMATIONAL_MAX:
            self._until_close = (
                "content-length" not in self.headers
                and "chunked" not in self.headers.get("transfer-encoding", "").lower()
            )
            _settle(self._headed)

    def on_body(self, body: bytes) -> None:
        """Take some of the body."""
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """Note the end, unless another answer follows."""
        self._complete = self.status > _INFORMATIONAL_MAX
        self._keeps = self._parser is not None and self._parser.should_keep_alive()

    def _hand_over(self, feed: Callable[[bytes], None]) -> None:
        chunks, self._chunks = self._chunks, []
        try:
            feed(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        except Exception as error:  # noqa: BLE001  it is raised where the exchange is awaited
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._keeps = False
        for future in (self._headed, self._ended):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # read once: the task that awaits it may be gone
        self.transport.abort()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
