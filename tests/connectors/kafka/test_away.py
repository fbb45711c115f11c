"""Kafka is away: clients try again after pauses that grow to a bound, and no more often."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.integration.outage_servers import Servers
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.read.inbox import Inbox
from turnstream.connectors.kafka.read.tail import Tail, TailOptions
from turnstream.connectors.kafka.wire.clients import AWAY_PAUSE_S
from turnstream.connectors.kafka.wire.pauses import Pauses
from turnstream.schemas.topics import Topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TOPIC = "away"
TRIES = 8


def test_pauses_double_up_to_their_bound_and_begin_anew_after_a_success() -> None:
    pauses = Pauses(0.1, 0.5)
    assert [pauses.after_failure_s() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    pauses.reset()
    assert pauses.after_failure_s() == 0.1
    assert Pauses(2.0, 0.5).after_failure_s() == 0.5


class Door:
    """Stands where Kafka was, closes each connection, and notes when each came."""

    def __init__(self) -> None:
        self.came_at: list[float] = []
        self.tried = asyncio.Event()

    def answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came_at.append(time.monotonic())
        self.tried.set()
        writer.close()

    async def stand_at(self, host: str, port: int) -> asyncio.Server:
        """Listen as soon as the last thread of the killed broker has let go of the port."""
        while True:
            try:
                return await asyncio.start_server(self.answer, host, port)
            except OSError:
                await asyncio.sleep(0.01)

    async def wait_for(self, tries: int) -> None:
        while len(self.came_at) < tries:
            self.tried.clear()
            await self.tried.wait()


class Numbers:
    """One incarnation."""

    async def number(self, _topic: str, _topic_id: uuid.UUID) -> int:
        return 1


@asynccontextmanager
async def tailing(bootstrap: str) -> AsyncIterator[None]:
    tail = Tail(bootstrap, TOPIC, Numbers(), TailOptions(topic_check_s=3600))
    running = asyncio.create_task(tail.run())
    try:
        await tail.ready.wait()
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def reading(bootstrap: str) -> AsyncIterator[None]:
    async with Inbox(bootstrap, f"g-{uuid.uuid4()}", [TOPIC], client_id="away") as inbox:
        while not inbox.assigned():
            await inbox.batches(wait_s=0.1, records_max=1)
        for partition in inbox.unplaced():
            inbox.place(partition, 0)
        yield


PARTS = {
    # each pause of the tail is followed by a fetch and an update of metadata
    "tail": (tailing, 2),
    # a fetch, a look-up of the coordinator, and an update of metadata after each of them
    "inbox": (reading, 4),
}


@pytest.fixture
def servers(starts_servers: None) -> Iterator[Servers]:
    servers = Servers()
    servers.open()
    yield servers
    servers.close()


@pytest.mark.parametrize("part", PARTS)
async def test_a_client_without_kafka_connects_seldom(servers: Servers, part: str) -> None:
    """An upper bound on tries in the time that they took: a slow machine only makes them fewer."""
    opened, tries_a_pause = PARTS[part]
    bootstrap = servers.stack.kafka_bootstrap
    host, port = bootstrap.split(":")
    async with TopicAdmin(bootstrap) as admin:
        await admin.create([Topic(TOPIC, 4, {})])
    door = Door()
    async with asyncio.timeout(120), AsyncExitStack() as stack:
        await stack.enter_async_context(opened(bootstrap))
        await servers.end("kafka", signal.SIGKILL)
        await stack.enter_async_context(await door.stand_at(host, int(port)))
        await door.wait_for(tries_a_pause * TRIES)
    settled = door.came_at[tries_a_pause * 4 :]  # the first pauses are short
    took_s = settled[-1] - settled[0]
    assert len(settled) - 1 <= tries_a_pause * (took_s / AWAY_PAUSE_S + 1)
