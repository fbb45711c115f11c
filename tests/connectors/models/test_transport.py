"""The transport against a server whose bytes a test says."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from turnstream.connectors.models.http.transport import HttpTransport
from turnstream.schemas.errors import ConfigurationError, ModelBadResponseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def encoded(name: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {name}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


RAW_DEFLATE = zlib.compressobj(wbits=-15)
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
HEADED = b"HTTP/1.1 200 OK\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class Server:
    """Answers the requests of each connection with scripted bytes; None closes the connection."""

    def __init__(self) -> None:
        self.scripts: list[list[bytes | None]] = []
        self.connections = 0
        self.open = 0
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        script = self.scripts.pop(0) if self.scripts else [WHOLE] * 9
        try:
            for answer in script:
                if answer is None:
                    break
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
                self.requests.append(head + await reader.readexactly(size))
                writer.write(answer)
            else:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def serving(
    *scripts: list[bytes | None], connections_max: int = 8
) -> AsyncIterator[tuple[Server, HttpTransport]]:
    handler = Server()
    handler.scripts = list(scripts)
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = HttpTransport(
        f"http://127.0.0.1:{port}/v1/", {"authorization": "Bearer x"},
        connections_max=connections_max, connect_timeout_s=60.0,
    )  # fmt: skip
    try:
        yield handler, transport
    finally:
        await transport.close()
        server.close()
        async with asyncio.timeout(60):
            while handler.open:
                await asyncio.sleep(0.001)


async def ask(transport: HttpTransport) -> tuple[int, bytes]:
    said: list[bytes] = []
    async with transport.post("/chat", b"{}", {"x-request-id": "7"}) as answer:
        await answer.read_into(said.append)
        return answer.status, b"".join(said)


async def test_a_request_is_sent_whole_and_its_connection_kept() -> None:
    async with serving() as (server, transport):
        assert await ask(transport) == (200, b"hello")
        assert await ask(transport) == (200, b"hello")
        assert server.connections == 1
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "POST /v1/chat HTTP/1.1"
        assert {"authorization: Bearer x", "x-request-id: 7", "content-length: 2"} <= set(lines)
        assert body == b"{}"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (CHUNKED + b"0\r\n\r\n", b""),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + WHOLE, b"hello"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + WHOLE, b"hello"),
        (CHUNKED + b"3;a=b\r\nabc\r\n0005\r\nhello\r\n0\r\nx-trailer: y\r\n\r\n", b"abchello"),
        (encoded("gzip", gzip.compress(b"hello", mtime=0)), b"hello"),
        (
            encoded(
                "GZIP", gzip.compress(b"he", mtime=0) + gzip.compress(b"llo", mtime=0) + b"\x00\x00"
            ),
            b"hello",
        ),
        (encoded("x-gzip", gzip.compress(b"ab" * 100_000, mtime=0)), b"ab" * 100_000),
        (encoded("deflate", zlib.compress(b"hello")), b"hello"),
        (encoded("deflate", RAW_DEFLATE.compress(b"hello") + RAW_DEFLATE.flush()), b"hello"),
        (encoded("identity", b"hello"), b"hello"),
    ],
)
async def test_bodies(answer: bytes, body: bytes) -> None:
    async with serving([answer, WHOLE]) as (server, transport):
        assert await ask(transport) == (200, body)
        assert await ask(transport) == (200, b"hello")
        assert server.connections == 1


@pytest.mark.parametrize("header", [b"", b"transfer-encoding: identity\r\n"])
async def test_a_body_that_ends_with_the_connection(header: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + header + b"\r\nall of it"
    async with serving([answer, None]) as (_, transport):
        assert await ask(transport) == (200, b"all of it")


@pytest.mark.parametrize("more", [b"garbage", WHOLE, b"\x00"])
async def test_what_follows_an_answer_does_not_matter(more: bytes) -> None:
    async with serving([WHOLE + more, WHOLE], [WHOLE]) as (server, transport):
        assert await ask(transport) == (200, b"hello")
        assert await ask(transport) == (200, b"hello")
        assert server.connections == 2


@pytest.mark.parametrize(
    ("name", "body"),
    [("br", b"hello"), ("gzip, gzip", b"hello"), ("gzip", b"hello"), ("zstd", b"")],
)
async def test_a_body_that_cannot_be_decompressed(name: str, body: bytes) -> None:
    async with serving([encoded(name, body)]) as (_, transport):
        with pytest.raises(ModelBadResponseError):
            await ask(transport)


async def test_a_bomb_is_handed_over_in_pieces() -> None:
    pieces: list[int] = []

    def take(data: bytes) -> None:
        pieces.append(len(data))
        if sum(pieces) > 1 << 20:
            raise LookupError("enough")

    bomb = gzip.compress(bytes(64 << 20))
    async with serving([encoded("gzip", bomb)]) as (_, transport):
        with pytest.raises(LookupError):
            async with transport.post("/chat", b"{}", {}) as answer:
                await answer.read_into(take)
    assert max(pieces) <= 64 << 10


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        CHUNKED + b"3\r\nabc\r\n",
    ],
)
async def test_a_connection_that_ends_in_the_middle(answer: bytes) -> None:
    async with serving([answer, None]) as (_, transport):
        with pytest.raises(ConnectionError):
            await ask(transport)


@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail ready\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000,
        CHUNKED + b"xyz\r\n",
        CHUNKED + b"0\r\nx: " + b"y" * 200_000,
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nhello",
    ],
    ids=range(8),
)
async def test_what_is_no_http(answer: bytes) -> None:
    async with serving([answer]) as (_, transport):
        with pytest.raises(ModelBadResponseError):
            await ask(transport)


async def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    async with serving([WHOLE, None], [WHOLE]) as (server, transport):
        await ask(transport)
        # the close may or may not have been seen by now: either way the next request succeeds
        assert await ask(transport) == (200, b"hello")
        assert server.connections == 2


async def test_a_connection_that_comes_back_after_the_close_is_closed() -> None:
    async with serving() as (server, transport):
        async with transport.post("/", b"{}", {}) as response:
            await response.read_into(lambda _: None)
            await transport.close()
        async with asyncio.timeout(60):
            while server.open:
                await asyncio.sleep(0.001)


async def test_leaving_early_closes_the_connection() -> None:
    async with serving([CHUNKED + b"3\r\nabc\r\n"]) as (server, transport):
        async with transport.post("/chat", b"{}", {}) as answer:
            assert answer.ok
        async with asyncio.timeout(60):
            while server.open:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("first", [WHOLE, CHUNKED + b"3\r\nabc\r\n"])
async def test_an_error_of_the_reader_ends_the_exchange(first: bytes) -> None:
    def refuse(_data: bytes) -> None:
        raise LookupError("enough")

    async with serving([first]) as (_, transport):
        with pytest.raises(LookupError):
            async with transport.post("/chat", b"{}", {}) as answer:
                await answer.read_into(refuse)


async def test_no_more_connections_than_allowed() -> None:
    async with serving(connections_max=2) as (server, transport):
        assert await asyncio.gather(*(ask(transport) for _ in range(9))) == [(200, b"hello")] * 9
        assert server.connections <= 2


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://h/v1", "http://", "http://h:x/v1"])
async def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"URL|[Pp]ort"):
        HttpTransport(url, {}, connections_max=1, connect_timeout_s=1.0)
