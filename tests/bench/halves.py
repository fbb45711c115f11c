"""Half requests, as many as the machine holds, against the edge: what another user notices.

`python -m tests.bench.halves PORT WHAT COUNT` holds COUNT connections until its input ends. Each
has sent half a head, or a head and half a body; one that the edge closes is opened again.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import uvloop

from tests.bench.machine import Meter, percentiles
from tests.bench.rows import ms
from tests.bench.stacks import http_json

if TYPE_CHECKING:
    from tests.bench.stacks import Bench

SENT = {
    "head": b"GET /ok HTTP/1.1\r\nhost: 127.0.0.1\r\nx-half: ",
    "body": b"POST /chat HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    b'content-length: 2000\r\n\r\n{"text": "',
}
OPENED_AT_ONCE = 100
EVERY_S = 0.05
ANSWER_TIMEOUT_S = 10.0


class Half(asyncio.Protocol):
    """A connection that sends half a request and waits."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._data)

    def connection_lost(self, error: Exception | None) -> None:
        del error
        if not self.over.done():
            self.over.set_result(None)


async def hold(port: int, data: bytes, count: int) -> None:
    """Hold `count` connections until standard input ends; print once when all are open."""
    loop = asyncio.get_running_loop()
    room, opened, again = asyncio.Semaphore(OPENED_AT_ONCE), 0, 0

    async def one() -> None:
        nonlocal opened, again
        first = True
        while True:
            try:
                async with room:
                    _, half = await loop.create_connection(lambda: Half(data), "127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            opened, again = opened + first, again + (not first)
            if first and opened == count:
                print("open", flush=True)
            first = False
            await half.over

    holding = [asyncio.create_task(one()) for _ in range(count)]
    await asyncio.to_thread(sys.stdin.read)
    for task in holding:
        task.cancel()
    print(again, flush=True)


def resident_mib(pid: int, what: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) // 1024


class User:
    """Asks for a thread, each time over a new connection, and notes how long it took."""

    def __init__(self, port: int, thread: str) -> None:
        self.url = f"http://127.0.0.1:{port}/threads/{thread}"
        self.took: list[float] = []
        self.failed: list[str] = []

    async def ask(self) -> None:
        began = time.monotonic()
        try:
            async with (
                asyncio.timeout(ANSWER_TIMEOUT_S),
                aiohttp.ClientSession() as http,
                http.get(self.url) as response,
            ):
                await response.read()
                if response.status != 200:
                    self.failed.append(str(response.status))
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            self.failed.append(type(error).__name__)
        self.took.append(time.monotonic() - began)

    async def ask_for(self, seconds: float) -> str:
        """Ask every `EVERY_S`; return what it came to."""
        self.took, self.failed, asking = [], [], set()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            asking.add(asyncio.create_task(self.ask()))
            await asyncio.sleep(EVERY_S)
        await asyncio.gather(*asking)
        p50, p99, most = (1e3 * value for value in percentiles(self.took, 0.5, 0.99, 1.0))
        return (
            f"{len(self.took)} GET, {len(self.failed)} failed, p50 / p99 / most"
            f" {ms(p50)} / {ms(p99)} / {ms(most)} ms"
        )


async def halves(bench: Bench, connections: int, seconds: float) -> int:
    """Print what a user notices of half requests, and what the edge holds; returns failures."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    pid = bench.pids["edge"]
    print(f"\nhalf requests ({connections} connections, the edge may open {files} files)")
    http_json(f"http://127.0.0.1:{bench.edge_port}/threads", {"thread_id": "t"})
    user = User(bench.edge_port, "t")
    print(f"  before: {await user.ask_for(seconds)}; edge {resident_mib(pid, 'VmRSS')} MiB")
    failed, meter = len(user.failed), Meter({"edge": pid})
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.halves", str(bench.edge_port), what,
             str(connections // len(SENT))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for what in SENT
    ]  # fmt: skip
    began = time.monotonic()
    while_opened = asyncio.gather(*(asyncio.to_thread(one.stdout.readline) for one in children))
    meter.start()
    rows = 0
    while not while_opened.done() or rows < 2:
        opened = "all opened" if while_opened.done() else "being opened"
        print(f"  {opened}: {await user.ask_for(seconds)}")
        failed, rows = failed + len(user.failed), rows + while_opened.done()
    print(f"  {time.monotonic() - began:.0f} s; edge {resident_mib(pid, 'VmHWM')} MiB at most,"
          f" {len(list(Path(f'/proc/{pid}/fd').iterdir()))} files open")  # fmt: skip
    usage = meter.stop()
    print(f"    edge {usage.parts['edge'] / usage.wall_s:.2f} cores")
    for child in children:
        child.stdin.close()
    again = sum([int(await asyncio.to_thread(one.stdout.readline)) for one in children])
    for child in children:
        child.stdout.close()
        child.wait(60)
    print(f"  closed by the edge and opened again: {again}")
    after = await user.ask_for(seconds)
    left = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    print(f"  after: {after}; edge {resident_mib(pid, 'VmRSS')} MiB, {left} files open")
    return failed + len(user.failed)


if __name__ == "__main__":
    uvloop.run(hold(int(sys.argv[1]), SENT[sys.argv[2]], int(sys.argv[3])))
