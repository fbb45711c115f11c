"""The load of the table "overload", in a process of its own: `python -m tests.bench.flood OPTIONS`.

It takes little of the machine and gives way to what is measured: requests are bytes that are made
before, connections are kept, the process is niced. How late it was itself is part of its report, so
that the edge is not blamed for it. Prints lines, and last its report as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field

from tests.bench.burst import Backend, backend
from tests.bench.machine import percentiles

NICE = 10
CONNECTIONS_MAX = 2000
TICK_S = 0.01
IDLE_MAX_S = 2.0
"""An edge ends a connection that is idle for five seconds."""
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
OVERLOADED = 503


@dataclass(frozen=True)
class Options:
    """What to send. Rates are a second; both last `seconds`."""

    port: int
    settings: dict[str, str]
    text: str
    http_rate: float
    kafka_rate: float
    threads: int
    head_start_s: float
    seconds: float
    drain_s: float


@dataclass
class Report:
    """What came of it. Times in milliseconds.

    `late`: how long requests waited until this process sent them; `lag`: how late its loop was, so
    that answers may have lain as long before it read them.
    """

    status: dict[str, int] = field(default_factory=dict)
    refused_ms: dict[str, float] = field(default_factory=dict)
    late_ms: dict[str, float] = field(default_factory=dict)
    lag_ms: dict[str, float] = field(default_factory=dict)
    without_retry: int = 0
    broken: int = 0
    unsent: int = 0
    again_s: float = 0.0
    sent: int = 0
    left: int = 0
    failed: int = 0
    out_of_order: int = 0
    drained_s: float = 0.0


def request_of(thread: str, text: str) -> bytes:
    """Return a request with a place for the thread's number in it."""
    body = json.dumps(
        {
            "assistant_id": "agent",
            "input": {"messages": [{"role": "user", "content": text}]},
            "if_not_exists": "create",
        }
    ).encode()
    return (
        f"POST /threads/{thread}-%012d/runs HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


class Asking:
    """Starts turns over HTTP at a fixed rate, whatever the answers; notes what each one was."""

    def __init__(self, port: int, text: str) -> None:
        self.port = port
        self.request = request_of("00000000-0000-4000-8000", text)
        self.status: Counter[int] = Counter()
        self.refused_s: list[float] = []
        self.late_s: list[float] = []
        self.without_retry = self.broken = self.asked = self.unsent = self.connections = 0
        self.idle: list[_Connection] = []
        self.opening: set[asyncio.Task[None]] = set()
        self.lag_s: list[float] = []
        self.due: deque[float] = deque()

    async def at(self, rate: float, seconds: float) -> None:
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            while self.asked + len(self.due) < elapsed * rate:
                self.due.append(began + (self.asked + len(self.due)) / rate)
            self.send()
            before = time.monotonic()
            await asyncio.sleep(TICK_S)
            self.lag_s.append(time.monotonic() - before - TICK_S)
        self.unsent = len(self.due)
        self.due.clear()
        while len(self.idle) < self.connections and time.monotonic() - began < seconds + 30:
            await asyncio.sleep(TICK_S)

    def send(self) -> None:
        while len(self.due) > len(self.idle) + len(self.opening) and self.room:
            task = asyncio.get_running_loop().create_task(self._open())
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)
        while self.due and self.idle:
            connection = self.idle.pop()
            if time.monotonic() - connection.idle_since > IDLE_MAX_S:
                connection.transport.close()  # the edge may be about to end it
                continue
            due = self.due.popleft()
            connection.ask(self.request % self.asked)
            self.asked += 1
            self.late_s.append(connection.began - due)

    @property
    def room(self) -> bool:
        return self.connections + len(self.opening) < CONNECTIONS_MAX

    async def _open(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
        except OSError:
            self.broken += 1

    async def taken_again(self, timeout_s: float) -> float:
        """Return after how long a turn is accepted, asking five times a second."""
        began = time.monotonic()
        taken = self.status[200]
        while self.status[200] == taken and time.monotonic() - began < timeout_s:
            self.due.append(time.monotonic())
            self.send()
            await asyncio.sleep(0.2)
        return time.monotonic() - began


class _Connection(asyncio.Protocol):
    """One kept connection: one request at a time."""

    def __init__(self, asking: Asking) -> None:
        self.asking, self.answer, self.began = asking, b"", 0.0
        self.idle_since = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.asking.connections += 1
        self.asking.idle.append(self)
        self.asking.send()

    def connection_lost(self, error: Exception | None) -> None:
        self.asking.connections -= 1
        if self.began:
            self.asking.broken += 1
        elif self in self.asking.idle:
            self.asking.idle.remove(self)

    def ask(self, request: bytes) -> None:
        self.began = time.monotonic()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        head, end, body = self.answer.partition(b"\r\n\r\n")
        if not end or len(body) < int(LENGTH.search(head)[1]):
            return
        asking, status = self.asking, int(head[9:12])
        asking.status[status] += 1
        if status == OVERLOADED:
            asking.refused_s.append(time.monotonic() - self.began)
            asking.without_retry += b"\r\nretry-after: " not in head.lower()
        self.answer, self.began = b"", 0.0
        self.idle_since = time.monotonic()
        asking.idle.append(self)


async def publish(log: Backend, options: Options) -> None:
    """Send turns through Kafka, to a fixed number of threads in turn."""
    began, sent = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < options.seconds:
        while sent < elapsed * options.kafka_rate:
            await log.send(f"over-{sent % options.threads}", options.text)
            sent += 1
        await log.read(20)


async def drained(log: Backend, timeout_s: float) -> float:
    """Wait until every turn has ended, with a line every ten seconds; returns how long it took."""
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        if not await log.all_ended(min(10.0, timeout_s)):
            break
        print(
            f"    {time.monotonic() - began:.0f} s after the load: {log.open} turns open",
            flush=True,
        )
    return time.monotonic() - began


def shares(values: list[float]) -> dict[str, float]:
    names = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    found = percentiles(values, *names.values())
    return {name: round(1e3 * value, 1) for name, value in zip(names, found, strict=True)}


async def main(options: Options) -> Report:
    asking = Asking(options.port, options.text)
    async with backend(options.settings) as log:
        await asyncio.sleep(options.head_start_s)
        await asyncio.gather(publish(log, options), asking.at(options.http_rate, options.seconds))
        again, drain_s = await asyncio.gather(
            asking.taken_again(options.drain_s), drained(log, options.drain_s)
        )
        return Report(
            status={str(status): count for status, count in asking.status.items()},
            refused_ms=shares(asking.refused_s),
            late_ms=shares(asking.late_s),
            lag_ms=shares(asking.lag_s),
            without_retry=asking.without_retry,
            broken=asking.broken,
            unsent=asking.unsent,
            again_s=again,
            sent=sum(map(len, log.sent.values())),
            left=log.open,
            failed=log.failed,
            out_of_order=log.out_of_order,
            drained_s=drain_s,
        )


if __name__ == "__main__":
    os.nice(NICE)
    print(json.dumps(asdict(asyncio.run(main(Options(**json.loads(sys.argv[1])))))), flush=True)
