"""From the bytes of a connection to HTTP/1.1 requests; pure.

Bodies need a Content-Length. No chunked bodies, no TLS.
"""

from __future__ import annotations

from typing import NamedTuple

HEAD_BYTES_MAX = 64 << 10
BODY_BYTES_MAX = 64 << 20


class HttpRequest(NamedTuple):
    """One request; `path` is without its query, `key` is the bearer token, b"" for none."""

    method: bytes
    path: bytes
    key: bytes
    body: bytes


class Refusal(NamedTuple):
    """Bytes that are no request which is taken; the connection cannot go on."""

    status: int
    message: str


class Requests:
    """Collects bytes; `take` returns the next request once it is whole.

    `continues`: the client waits for `100 Continue` before it sends the body.
    """

    def __init__(self) -> None:
        self.continues = False
        self._buffer = b""

    def __bool__(self) -> bool:
        return bool(self._buffer)

    def add(self, data: bytes) -> None:
        """Add the bytes of one read."""
        self._buffer += data

    def take(self) -> HttpRequest | Refusal | None:
        """Return the next request or why it is refused, None while it is not whole."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                return Refusal(413, "headers too large")
            return None
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
            return Refusal(400, "a request needs a Content-Length")
        if len(self._buffer) < end + 4 + length:
            if headers.get(b"expect", b"").lower() == b"100-continue":
                self.continues = True
                self._buffer = self._buffer.replace(b"100-continue", b"", 1)
            return None
        body = self._buffer[end + 4 : end + 4 + length]
        self._buffer = self._buffer[end + 4 + length :]
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        key = key if scheme == b"Bearer" else b""
        return HttpRequest(method, target.split(b"?")[0], key, body)
