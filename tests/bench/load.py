"""Load: streams that run turns one after the other, against ours and against the template."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.machine import Meter, Usage
from tests.bench.sockets import Reading, Stream, Window, frame, http, open_websocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaProducer

OURS_END = rb'"event":\s*"(?:completed|failed)"'
THEIRS_END = rb'"completed": true'
TURNS_A_THREAD = 4
"""Then a stream goes on with a new thread: a history grows with every turn, and whoever runs more
of them in the same time would be charged for more of it."""


@dataclass
class Measured:
    """One row: what the streams read, how long first tokens took, and what it cost."""

    streams: int
    tokens: int = 0
    turns: int = 0
    latencies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    usage: Usage | None = None
    errors: list[str] = field(default_factory=list)

    def cpu_us_per_token(self, *parts: str) -> float:
        spent = sum(self.usage.parts[part] for part in parts)
        return spent / max(1, self.tokens) * 1e6


class Ours:
    """One thread over the Agent Streaming Protocol: a WebSocket, and HTTP for commands."""

    assistant = "agent"

    def __init__(self, port: int, window: Window) -> None:
        self.port, self.window, self.thread = port, window, str(uuid.uuid4())
        self.path = f"/threads/{self.thread}"

    async def open(self) -> None:
        await self._connect()
        self.commands.transport.write(
            http("POST", "/threads", {"thread_id": self.thread, "if_exists": "do_nothing"})
        )
        made = await asyncio.wait_for(self.commands.head, 30)
        if b" 200 " not in made.split(b"\r\n")[0]:
            raise ConnectionError(made[:300].decode(errors="replace"))
        self.stream = await open_websocket(
            self.port, f"{self.path}/stream/events", OURS_END, self.window
        )
        channels = {"channels": ["lifecycle", "messages"]}
        self.stream.transport.write(
            frame({"id": 1, "method": "subscription.subscribe", "params": channels})
        )

    async def _connect(self) -> None:
        _, self.commands = await asyncio.get_running_loop().create_connection(
            lambda: Stream(b'"run_id"|"error"'), "127.0.0.1", self.port
        )

    async def begin(self, text: str) -> None:
        if self.commands.closed:  # servers close connections that were idle for some seconds
            await self._connect()
        message = {"role": "user", "content": text}
        self.commands.transport.write(
            http(
                "POST",
                f"{self.path}/commands",
                {
                    "id": 1,
                    "method": "run.start",
                    "params": {"assistant_id": self.assistant, "input": {"messages": [message]}},
                },
            )
        )

    def answered(self) -> bytes:
        """Return what was last said to a command."""
        return self.commands.latest[-300:]

    def close(self) -> None:
        self.stream.transport.close()
        self.commands.transport.close()


class Published(Ours):
    """The same, but that turns come in as a backend's records on Kafka: `log` is set by `main`."""

    log: AIOKafkaProducer
    topic: str

    async def begin(self, text: str) -> None:
        await self.log.send(
            self.topic,
            json.dumps({"thread_id": self.thread, "text": text}).encode(),
            key=f"default/{self.thread}".encode(),
        )


class Brought(Ours):
    """The same for a graph that was brought, see `brought.py`."""

    assistant = "brought"


class Bare(Published):
    """The bare path: a record on Kafka, and a WebSocket that gives each record as it is."""

    async def open(self) -> None:
        self.stream = await open_websocket(self.port, f"/{self.thread}", OURS_END, self.window)

    def answered(self) -> bytes:
        """Return what was last heard."""
        return self.stream.latest[-300:]

    def close(self) -> None:
        self.stream.transport.close()


class Theirs:
    """One thread of the template: a POST a turn on a kept connection, SSE back."""

    def __init__(self, port: int, window: Window) -> None:
        self.port, self.window, self.thread = port, window, str(uuid.uuid4())

    async def open(self) -> None:
        _, self.stream = await asyncio.get_running_loop().create_connection(
            lambda: Stream(THEIRS_END, self.window), "127.0.0.1", self.port
        )

    async def begin(self, text: str) -> None:
        if self.stream.closed:
            await self.open()
        self.stream.transport.write(http("POST", "/chat", {"thread_id": self.thread, "text": text}))

    def answered(self) -> bytes:
        """Return what was last heard."""
        return self.stream.latest[-300:]

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
    turn_timeout_s: float = 60.0,
    sampling: Callable[[], None] = lambda: None,
) -> Measured:
    """Run turns on so many streams for so long; the first three seconds are not counted.

    `first` is the time to the first token less the model's own (`ttft_s`). What arrives in the
    window counts, whole turns or not. A stream that fails is noted, and opened anew. `sampling` is
    called where counting begins and where it ends.
    """
    row, window = Measured(streams), Window()
    clients = [kind(port, window) for _ in range(streams)]
    for at in range(0, streams, 50):
        await asyncio.gather(*(client.open() for client in clients[at : at + 50]))
    began_counting = time.monotonic() + 3.0
    until = began_counting + seconds

    async def fresh(index: int) -> Ours | Theirs:
        clients[index].close()
        clients[index] = kind(port, window)
        await clients[index].open()
        return clients[index]

    async def one(index: int) -> None:
        await asyncio.sleep(2.2 * index / streams)  # spread the starts over a paced turn
        client, turns = clients[index], 0
        while time.monotonic() < until:
            if turns == TURNS_A_THREAD:
                client, turns = await fresh(index), 0
            turns += 1
            reading = client.stream.reading = Reading()
            began = time.monotonic()
            try:
                await client.begin(text)
                await client.stream.turn(turn_timeout_s)
            except (TimeoutError, ConnectionError) as error:
                row.errors.append(f"{error!r}, last answer {client.answered()!r}")
                client, turns = await fresh(index), 0
                continue
            if began_counting <= reading.first_at <= until:
                row.turns += 1
                row.first.append(reading.first_at - began - ttft_s)

    tasks = [asyncio.create_task(one(index)) for index in range(streams)]
    await asyncio.sleep(began_counting - time.monotonic())
    meter = Meter(pids)
    sampling()
    meter.start()
    window.on = True
    await asyncio.sleep(seconds)
    window.on = False
    row.usage = meter.stop()
    sampling()
    row.latencies, row.gaps = window.latencies, window.gaps
    row.tokens = len(window.latencies)
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, BaseException):
            row.errors.append(repr(ended))
    for client in clients:
        client.close()
    return row
