"""HTTP/1.1 to one model server: its connections, kept between exchanges, and its requests.

No redirects, no proxies, and no compression is asked for: a model server needs none. Why a
connection is our own: `connection.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from turnstream.connectors.models.http.connection import Connection
from turnstream.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

IDLE_S_MAX = 4.0
"""Seconds after which an idle connection is not used again: uvicorn, and so vLLM, closes it after
5 s."""


class Exchange:
    """A request and its answer. Leaving it early closes the connection, which frees the slot."""

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

    Raises `ConfigurationError` for anything but an http or https URL.
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
        self._closed = False
        self.slots = asyncio.Semaphore(connections_max)

    async def close(self) -> None:
        """Close the connections that are kept, and each that is given back later."""
        self._closed = True
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
        if connection.reusable and not self._closed:
            connection.idle_since = asyncio.get_running_loop().time()
            self._kept.append(connection)
        else:
            connection.transport.abort()
        connection.forget()
