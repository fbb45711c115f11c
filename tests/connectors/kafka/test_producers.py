"""What is sent again is in the log once: lost answers, lost requests, refused leaders."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.produce import ProduceResponse_v7

from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.wire.connection import Wire
from turnstream.connectors.kafka.wire.produce_request import produce_answers
from turnstream.connectors.kafka.write import sending
from turnstream.connectors.kafka.write.producer import Producer
from turnstream.connectors.kafka.write.pump import Pump
from turnstream.schemas.topics import Topic

if TYPE_CHECKING:
    from turnstream.schemas.errors import ProduceRefusedError

NOT_LEADER = 6


class Dice:
    """What happens to requests."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lost = 0


class Unlucky(Wire):
    """Loses requests, loses answers, and takes answers for refusals, by a seeded dice."""

    dice: Dice

    def send(self, api: int, version: int, body: bytes, told: Any) -> None:
        fate = self.dice.random.random()
        if fate < 0.3:
            self.dice.lost += 1
        if fate < 0.1:
            loop = asyncio.get_running_loop()
            loop.call_soon(told, b"", 0, NodeNotReadyError("the request got lost"))
        elif fate < 0.2:
            super().send(
                api, version, body, lambda *_: told(b"", 0, RequestTimedOutError("no answer"))
            )
        elif fate < 0.3:
            super().send(
                api, version, body, lambda data, at, error: told(self._refused(data, at), at, error)
            )
        else:
            super().send(api, version, body, told)

    def _refused(self, data: bytes, at: int) -> bytes:
        """Make one answer say that the broker does not lead the partition."""
        by_topic: dict[str, list[tuple[int, int, int, int, int]]] = {}
        answers = produce_answers(data, at)
        unlucky = self.dice.random.randrange(len(answers))
        for i, (topic, partition, code, offset) in enumerate(answers):
            refused = (partition, NOT_LEADER if i == unlucky else code, offset, -1, -1)
            by_topic.setdefault(topic, []).append(refused)
        return data[:at] + ProduceResponse_v7(list(by_topic.items()), 0).encode()


class Speaker:
    """A sender that numbers what it says."""

    dead = False

    def __init__(self, pump: Pump, to: TopicPartition, name: str) -> None:
        self.pump, self.to, self.name = pump, to, name
        self.said = 0
        self.landed_at: dict[int, int] = {}

    def say(self) -> None:
        self.said += 1
        self.pump.put(self.to, self, self.said, self.name.encode(), b"%d" % self.said)

    def seal(self) -> None:
        """Have nothing open."""

    def landed(self, n: int, offset: int) -> None:
        assert n not in self.landed_at
        self.landed_at[n] = offset

    def refused(self, error: ProduceRefusedError) -> None:
        raise error


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_is_sent_again_is_in_the_log_once_and_in_order(
    kafka: str, prefix: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(sending, "RETRY_S", 0.005)
    topic = f"{prefix}turn-events"
    async with TopicAdmin(kafka) as admin:
        await admin.create([Topic(topic, 3, {})])
    dice = Dice(seed)

    async def unlucky_wire(client: AIOKafkaClient, node: int, timeout_s: float) -> Wire:
        wire = await Unlucky.open(client, node, timeout_s)
        wire.dice = dice
        return wire

    async def unlucky() -> Producer:
        client = AIOKafkaClient(bootstrap_servers=kafka)
        await client.bootstrap()
        await client.set_topics([topic])
        producer = Producer(client, unlucky_wire)
        await producer.start()
        return producer

    pump = Pump(unlucky, tick_s=0.002)
    await pump.start()
    running = asyncio.create_task(pump.run())
    speakers = [Speaker(pump, TopicPartition(topic, i % 3), f"s{i}") for i in range(9)]
    async with asyncio.timeout(60):
        while dice.lost < 20:
            for speaker in dice.random.sample(speakers, 4):
                speaker.say()
            await asyncio.sleep(0.001)
        await pump.flush()
    assert not running.done()
    assert pump.refusals == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    said = sum(speaker.said for speaker in speakers)
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=kafka, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        ends = await consumer.end_offsets([TopicPartition(topic, i) for i in range(3)])
        assert sum(ends.values()) == said, "the log holds each record once"
        async with asyncio.timeout(60):
            records = [await consumer.getone() for _ in range(said)]
    finally:
        await consumer.stop()
    for speaker in speakers:
        mine = [record for record in records if record.key == speaker.name.encode()]
        assert [int(record.value) for record in mine] == list(range(1, speaker.said + 1))
        told = [speaker.landed_at[n] for n in range(1, speaker.said + 1)]
        assert all(at in (record.offset, -1) for at, record in zip(told, mine, strict=True))
