"""HTTP/1.1 to one model server, over kept connections; bytes go to their reader as they come.

For the hot path: a client of general use wakes a task for every network read. Here the reader is
called from the transport. Parsing is httptools'. No redirects, no proxies, no compression asked
for: a model server needs none.
"""

from __future__ import annotations

import asyncio
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import httptools

from turnstream.connectors.models.http.bodies import decompressing
from turnstream.schemas.errors import ConfigurationError, ModelBadResponseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

IDLE_S_MAX = 4.0
"""A connection unused for longer is not used again: uvicorn, and so vLLM, closes it after 5 s."""

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
        """Let go of the exchange, whose errors hold frames that hold this connection."""
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
        # no name for the future here: an error of the reader holds this frame, and it the error
        if self._parser is None or self._ended is None or self._ended.done():
            self.transport.abort()  # nobody asked
            return
        self.heard = True
        try:
            self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001  httptools' errors have no root of their own
            self._keeps = False
            if not self._complete:  # what follows a whole answer does not matter
                self._fail(ModelBadResponseError(f"no HTTP answer: {type(error).__name__}"))
                return
        if not self._chunks:  # a head, or what stands behind a body's last chunk
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._fail(ModelBadResponseError(f"an answer's head above {HEAD_BYTES_MAX} bytes"))
                return
        elif self.feed is not None:
            self._hand_over(self.feed)
        if self._complete:
            _settle(self._ended)

    def connection_lost(self, error: Exception | None) -> None:
        """End the exchange: well, where the connection's end is the body's."""
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
        """Let who waits for the head go on."""
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
                future.exception()  # who has gone away does not ask
        self.transport.abort()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Exchange:
    """A request and its answer; leaving it early closes the connection: that frees the slot."""

    def __init__(self, transport: HttpTransport, request: bytes) -> None:
        self._http = transport
        self._request = request
        self.connection: Connection

    async def __aenter__(self) -> Connection:
        """Send, and wait for the head; a kept connection that fails silently is replaced once."""
        await self._http.slots.acquire()
        try:
            self.connection, kept = await self._http.take()
            self.connection.begin(self._request)
            try:
                await self.connection.head()
            except OSError:
                if not kept or self.connection.heard:
                    raise
                self.connection.forget()
                self.connection = await self._http.open()
                self.connection.begin(self._request)
                await self.connection.head()
        except BaseException:
            self._leave()
            raise
        return self.connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self._http.slots.release()
        if hasattr(self, "connection"):
            self._http.give_back(self.connection)


class HttpTransport:
    """Connections to the server of `base_url`; at most `connections_max` exchanges at a time.

    Raises `ConfigurationError` for a URL that is none.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        connections_max: int,
        connect_timeout_s: float,
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigurationError(f"no http or https URL of a model server: {base_url!r}")
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._host = url.hostname
        try:
            self._port = url.port or (443 if self._tls else 80)
        except ValueError as error:
            raise ConfigurationError(f"{base_url!r}: {error}") from error
        self._path = url.path.rstrip("/")
        given = {
            "host": url.netloc.rpartition("@")[2],
            "accept": "*/*",
            "accept-encoding": "identity",
            **headers,
        }
        self._head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self._connect_timeout_s = connect_timeout_s
        self._kept: list[Connection] = []
        self.slots = asyncio.Semaphore(connections_max)

    async def close(self) -> None:
        """Close the connections that are kept."""
        kept, self._kept = self._kept, []
        for connection in kept:
            connection.transport.close()
        await asyncio.sleep(0)  # transports close in the loop's next step

    def get(self, path: str) -> Exchange:
        """Return a GET of a path below the base URL."""
        return Exchange(self, f"GET {self._path}{path} HTTP/1.1\r\n{self._head}\r\n".encode())

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Exchange:
        """Return a POST of JSON to a path below the base URL."""
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"POST {self._path}{path} HTTP/1.1\r\n{self._head}{more}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return Exchange(self, head.encode() + body)

    async def take(self) -> tuple[Connection, bool]:
        """Return a connection, and whether it was kept from before."""
        since = asyncio.get_running_loop().time() - IDLE_S_MAX
        while self._kept:
            connection = self._kept.pop()
            if not connection.lost and connection.idle_since >= since:
                return connection, True
            connection.transport.close()
        return await self.open(), False

    async def open(self) -> Connection:
        """Open a connection. Raises `OSError`, `TimeoutError` among them."""
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection, self._host, self._port, ssl=self._tls
            )
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose exchange is over; close any other."""
        if connection.reusable:
            connection.idle_since = asyncio.get_running_loop().time()
            self._kept.append(connection)
        else:
            connection.transport.abort()
        connection.forget()
