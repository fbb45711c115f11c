"""Load: streams that run turns one after the other, against ours and against the template."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field

from tests.bench.machine import Meter, Usage
from tests.bench.sockets import Reading, Stream, frame, http, open_websocket

OURS_END = rb'"event":\s*"(?:completed|failed)"'
THEIRS_END = rb'"completed": true'


@dataclass
class Measured:
    """One row: what the streams read, how long first tokens took, and what it cost."""

    streams: int
    tokens: int = 0
    turns: int = 0
    latencies: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    usage: Usage | None = None
    errors: list[str] = field(default_factory=list)

    def cpu_us_per_token(self, *parts: str) -> float:
        spent = sum(self.usage.parts[part] for part in parts)
        return spent / max(1, self.tokens) * 1e6


class Ours:
    """One thread over the Agent Streaming Protocol: a WebSocket, and HTTP for commands."""

    def __init__(self, port: int) -> None:
        self.port, self.thread = port, str(uuid.uuid4())
        self.path = f"/threads/{self.thread}"

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.commands = await loop.create_connection(
            lambda: Stream(b'"run_id"|"error"'), "127.0.0.1", self.port
        )
        self.commands.transport.write(
            http("POST", "/threads", {"thread_id": self.thread, "if_exists": "do_nothing"})
        )
        made = await asyncio.wait_for(self.commands.head, 30)
        if b" 200 " not in made.split(b"\r\n")[0]:
            raise ConnectionError(made[:300].decode(errors="replace"))
        self.stream = await open_websocket(self.port, f"{self.path}/stream/events", OURS_END)
        channels = {"channels": ["lifecycle", "messages"]}
        self.stream.transport.write(
            frame({"id": 1, "method": "subscription.subscribe", "params": channels})
        )

    def begin(self, text: str) -> None:
        message = {"role": "user", "content": text}
        self.commands.transport.write(
            http(
                "POST",
                f"{self.path}/commands",
                {
                    "id": 1,
                    "method": "run.start",
                    "params": {"assistant_id": "agent", "input": {"messages": [message]}},
                },
            )
        )

    def close(self) -> None:
        self.stream.transport.close()
        self.commands.transport.close()


class Theirs:
    """One thread of the template: a POST a turn on a kept connection, SSE back."""

    def __init__(self, port: int) -> None:
        self.port, self.thread = port, str(uuid.uuid4())

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.stream = await loop.create_connection(
            lambda: Stream(THEIRS_END), "127.0.0.1", self.port
        )

    def begin(self, text: str) -> None:
        self.stream.transport.write(http("POST", "/chat", {"thread_id": self.thread, "text": text}))

    def close(self) -> None:
        self.stream.transport.close()


async def run(
    kind: type[Ours | Theirs],
    port: int,
    pids: dict[str, int],
    *,
    streams: int,
    text: str,
    ttft_s: float = 0.0,
    seconds: float,
    fresh_threads: bool = False,
    turn_timeout_s: float = 60.0,
) -> Measured:
    """Run turns on so many streams for so long; the first second is not counted.

    `first` is the time to the first token less the model's own (`ttft_s`).
    """
    row = Measured(streams)
    clients = [kind(port) for _ in range(streams)]
    retired = 0
    for at in range(0, streams, 50):
        await asyncio.gather(*(client.open() for client in clients[at : at + 50]))
    counting = False
    until = time.monotonic() + 1.0 + seconds

    async def one(index: int) -> None:
        nonlocal retired
        client = clients[index]
        await asyncio.sleep(index / streams)  # spread the starts over the first second
        while time.monotonic() < until:
            if fresh_threads and client.stream.reading.ends:
                client.close()
                retired += client.stream.delivered
                client = clients[index] = kind(port)
                await client.open()
            client.stream.reading = Reading()
            began, counted = time.monotonic(), counting
            client.begin(text)
            try:
                await client.stream.turn(turn_timeout_s)
            except (TimeoutError, ConnectionError) as error:
                row.errors.append(repr(error))
                return
            reading = client.stream.reading
            if counted and time.monotonic() <= until:
                row.turns += 1
                row.first.append(reading.first_at - began - ttft_s)
                row.latencies.extend(reading.latencies)

    tasks = [asyncio.create_task(one(index)) for index in range(streams)]
    await asyncio.sleep(1.0)
    meter = Meter(pids)
    counting = True
    meter.start()
    before = retired + _delivered(clients)
    await asyncio.sleep(seconds)
    row.usage = meter.stop()
    row.tokens = retired + _delivered(clients) - before
    await asyncio.gather(*tasks)
    for client in clients:
        client.close()
    return row


def _delivered(clients: list[Ours] | list[Theirs]) -> int:
    return sum(client.stream.delivered for client in clients)
