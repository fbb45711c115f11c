"""Turns as backends send them: records on Kafka, results counted as they come."""

from __future__ import annotations

import json
import time
import uuid
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from turnstream.connectors.avro import Codec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Backend:
    """Sends turns, and knows in which order the turns of each thread ended."""

    def __init__(self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, topic: str) -> None:
        self._producer, self._consumer, self._topic = producer, consumer, topic
        self._codec = Codec()
        self.sent: dict[str, list[str]] = defaultdict(list)
        self.ended: dict[str, list[str]] = defaultdict(list)
        self.failed = 0

    async def send(self, thread: str, text: str) -> None:
        turn = str(uuid.uuid4())
        self.sent[thread].append(turn)
        await self._producer.send(
            self._topic,
            json.dumps({"thread_id": thread, "text": text, "turn_id": turn}).encode(),
            key=f"default/{thread}".encode(),
        )

    @property
    def open(self) -> int:
        """Turns that were sent and have not ended."""
        return sum(map(len, self.sent.values())) - sum(map(len, self.ended.values()))

    @property
    def out_of_order(self) -> int:
        """Threads whose turns did not end in the order in which they were sent."""
        return sum(turns != self.sent[thread][: len(turns)] for thread, turns in self.ended.items())

    async def read(self, wait_ms: int = 100) -> None:
        for records in (await self._consumer.getmany(timeout_ms=wait_ms)).values():
            for record in records:
                result = self._codec.decode(record.value)
                if result.turn_id in self.sent.get(result.thread_id, ()):
                    self.ended[result.thread_id].append(result.turn_id)
                    self.failed += result.status != "completed"

    async def all_ended(self, timeout_s: float) -> int:
        """Wait for all; returns how many had not ended in time."""
        await self._producer.flush()
        until = time.monotonic() + timeout_s
        while self.open and time.monotonic() < until:
            await self.read()
        return self.open


@asynccontextmanager
async def backend(settings: dict[str, str]) -> AsyncIterator[Backend]:
    prefix, bootstrap = settings["TURNSTREAM_TOPIC_PREFIX"], settings["TURNSTREAM_KAFKA_BOOTSTRAP"]
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5)
    consumer = AIOKafkaConsumer(
        f"{prefix}turn-results.default", bootstrap_servers=bootstrap, auto_offset_reset="latest"
    )
    await producer.start()
    await consumer.start()
    try:
        for partition in consumer.assignment():
            await consumer.position(partition)
        yield Backend(producer, consumer, f"{prefix}turns.default")
    finally:
        await producer.stop()
        await consumer.stop()
