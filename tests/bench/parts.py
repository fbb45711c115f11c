"""Parts written by hand, each beside the library that does the same, in one run.

`python -m tests.bench --only parts`. Needs no Kafka and no Postgres. CPU is that of this process
alone: the server of the streams is a child. An answer is read by 50 clients at a time, its events
a millisecond apart, so that most reads hold one event, as those of a model do.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING

import aiohttp
import httpx
from aiolimiter import AsyncLimiter
from httpx_sse import ServerSentEvent, aconnect_sse
from httpx_sse._decoders import SSEDecoder, SSELineDecoder

from tests.bench.rows import judge, line
from tests.bench.wire_forms import wire_forms
from turnstream.connectors.models.http.server_sent_events import EventLines
from turnstream.connectors.models.http.transport import HttpTransport
from turnstream.streams.edge.server.auth import Principal
from turnstream.streams.edge.server.limits import RequestRate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

CLIENTS, EVENTS, GAP_S = 50, 200, 0.001
EVENT = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
)
ROUNDS = 3
READS, CALLS = 100_000, 100_000


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request of a connection with the events of one answer."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            size = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
            await reader.readexactly(int(size or 0))
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                b"transfer-encoding: chunked\r\n\r\n"
            )
            begun = loop.time()
            for number in range(EVENTS):
                await asyncio.sleep(max(0.0, begun + number * GAP_S - loop.time()))
                writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            writer.write(b"0\r\n\r\n")
    writer.close()


async def serve() -> None:
    """Print the port, and serve until stdin ends."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.parts",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await child.stdout.readline())}"
    finally:
        child.stdin.close()
        await child.wait()


async def cpu_per_event(read: Callable[[], Awaitable[int]]) -> float:
    """Return the least CPU seconds per event of several rounds; the first round is not counted."""
    spent = []
    for _ in range(ROUNDS + 1):
        begun = time.process_time()
        counts = await asyncio.gather(*(read() for _ in range(CLIENTS)))
        spent.append(time.process_time() - begun)
        assert counts == [EVENTS] * CLIENTS
    return min(spent[1:]) / (CLIENTS * EVENTS)


async def with_ours(url: str) -> float:
    transport = HttpTransport(url, {}, connections_max=CLIENTS, connect_timeout_s=10)

    async def read() -> int:
        lines, seen = EventLines(), 0

        def feed(data: bytes) -> None:
            nonlocal seen
            seen += len(lines.feed(data))

        async with transport.post("/", b"{}", {}) as response:
            await response.read_into(feed)
        return seen

    try:
        return await cpu_per_event(read)
    finally:
        await transport.close()


async def with_aiohttp(url: str) -> float:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def read() -> int:
            lines, seen = EventLines(), 0
            async with http.post(url, data=b"{}") as response:
                async for data in response.content.iter_any():
                    seen += len(lines.feed(data))
            return seen

        return await cpu_per_event(read)


async def with_httpx(url: str) -> float:
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(limits=limits, timeout=60) as http:

        async def read() -> int:
            async with aconnect_sse(http, "POST", url, content=b"{}") as source:
                return len([event async for event in source.aiter_sse() if event.data])

        return await cpu_per_event(read)


def events_of_ours() -> float:
    lines, seen, begun = EventLines(), 0, time.process_time()
    for _ in range(READS):
        seen += len(lines.feed(EVENT))
    assert seen == READS
    return time.process_time() - begun


def events_of_httpx_sse() -> float:
    lines, decoder, begun = SSELineDecoder(), SSEDecoder(), time.process_time()
    found: list[ServerSentEvent] = []
    for _ in range(READS):
        for text in lines.decode(EVENT.decode()):
            event = decoder.decode(text)
            if event is not None:
                found.append(event)
    assert len(found) == READS
    return time.process_time() - begun


async def takes_of_ours() -> float:
    rate = RequestRate(1e9)
    principal = Principal(tenant="t", user="u")
    begun = time.process_time()
    for _ in range(CALLS):
        rate.take(principal)
    return time.process_time() - begun


async def takes_of_aiolimiter() -> float:
    """One limiter a user, found as ours are; `has_capacity` is what refuses instead of waiting."""
    limiters = {("t", "u"): AsyncLimiter(2e9, 2)}
    principal = Principal(tenant="t", user="u")
    begun = time.process_time()
    for _ in range(CALLS):
        limiter = limiters[(principal.tenant, principal.user)]
        assert limiter.has_capacity()
        await limiter.acquire()
    return time.process_time() - begun


def row(name: str, library: float, ours: float, count: int = 1) -> None:
    print(f"    {1e6 * library / count:.2f} / {1e6 * ours / count:.2f} us")
    line(name, f"{library / ours:.2f}x", "1", "2", judge(library / ours, 1, 2, more=True))


async def parts() -> None:
    """Print the table."""
    print(f"\nparts ({CLIENTS} clients, {EVENTS} events an answer; best of {ROUNDS})", flush=True)
    async with served() as url:
        ours = await with_ours(url)
        row("CPU per event, aiohttp / ours, both with our reader", await with_aiohttp(url), ours)
        row("CPU per event, httpx with httpx-sse / ours", await with_httpx(url), ours)
    best = min(events_of_ours() for _ in range(ROUNDS))
    theirs = min(events_of_httpx_sse() for _ in range(ROUNDS))
    row("CPU of the reader per event, httpx-sse / ours", theirs, best, READS)
    taken = min([await takes_of_ours() for _ in range(ROUNDS)])
    theirs = min([await takes_of_aiolimiter() for _ in range(ROUNDS)])
    row("CPU of a request within its rate, aiolimiter / ours", theirs, taken, CALLS)
    wire_forms()


if __name__ == "__main__":
    asyncio.run(serve())
