"""Replay from a real log, and its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.read.scan import LogScan, partition_of
from turnstream.schemas.errors import NotFoundError
from turnstream.schemas.ids import event_id
from turnstream.schemas.records.commands import StartTurn
from turnstream.schemas.records.events import (
    AttemptStarted,
    Event,
    MessageFinished,
    MessageStarted,
    TokensEmitted,
    TurnCompleted,
)
from turnstream.schemas.text import text_sha256
from turnstream.schemas.topics import Topics
from turnstream.streams.replay.log import Replayer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CODEC = Codec()
PARTITIONS = 4


def turn_records(
    thread_id: str, turn_id: str, text: str, source: tuple[str, int, int]
) -> list[Event]:
    def say(what: type[Event], n: int, **fields: Any) -> Event:
        envelope = {"tenant": "default", "thread_id": thread_id, "turn_id": turn_id}
        return what(event_id=event_id(turn_id, 1, n), epoch=1, n=n, at=n, **envelope, **fields)

    digest = text_sha256(text)
    topic, partition, offset = source
    return [
        say(
            AttemptStarted,
            0,
            reason="first",
            base=0,
            keep_n=0,
            high_n=0,
            source_topic=topic,
            source_partition=partition,
            source_offset=offset,
        ),
        say(MessageStarted, 1, message_id="m"),
        *(
            say(TokensEmitted, n, message_id="m", block=0, kind="text", text=letter)
            for n, letter in enumerate(text, start=2)
        ),
        say(MessageFinished, 2 + len(text), message_id="m", sha256=digest),
        say(TurnCompleted, 3 + len(text), message_id="m", text=text, sha256=digest),
    ]


class Log:
    """Topics with turns in them."""

    def __init__(self, kafka: str, prefix: str, producer: AIOKafkaProducer) -> None:
        self.kafka = kafka
        self.topics = Topics(prefix)
        self.producer = producer

    async def ask(self, thread_id: str, value: bytes) -> tuple[str, int, int]:
        key = f"default/{thread_id}".encode()
        at = await self.producer.send_and_wait(self.topics.turns_of("default"), value, key=key)
        return at.topic, at.partition, at.offset

    async def put(self, thread_id: str, records: list[Event], partition: int | None = None) -> None:
        key = f"default/{thread_id}".encode()
        for record in records:
            await self.producer.send_and_wait(
                self.topics.events, CODEC.encode(record), key=key, partition=partition
            )

    def replayer(self, scan: LogScan) -> Replayer:
        return Replayer(scan, CODEC, self.topics.events, partition_of)

    def view(self, *args: str) -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ,
            "TURNSTREAM_KAFKA_BOOTSTRAP": self.kafka,
            "TURNSTREAM_TOPIC_PREFIX": self.topics.prefix,
        }
        command = [sys.executable, "-m", "turnstream.streams.cli", "replay", "view", *args]
        return subprocess.run(
            command, check=False, env=env, capture_output=True, text=True, timeout=120
        )


@pytest.fixture
async def log(kafka: str, prefix: str) -> AsyncIterator[Log]:
    topics = Topics(prefix).all(("default",), PARTITIONS)
    async with TopicAdmin(kafka) as admin:
        await admin.create(topics)
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
    await producer.start()
    yield Log(kafka, prefix, producer)
    await producer.stop()
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    await client.delete_topics([topic.name for topic in topics])
    await client.close()


def turn_id(number: int) -> str:
    return f"018f0000-0000-7000-8000-{number:012d}"


async def test_a_thread_with_its_inputs(log: Log):
    line = b'{"thread_id": "a", "text": "Say hello", "correlation_id": "c-1"}'
    avro = CODEC.encode(StartTurn(thread_id="a", input='{"messages": []}'))
    await log.put("a", turn_records("a", turn_id(1), "Hello", await log.ask("a", line)))
    await log.put("b", turn_records("b", turn_id(2), "Other", await log.ask("b", line)))
    await log.put("a", turn_records("a", turn_id(3), "World", await log.ask("a", avro)))

    async with LogScan(log.kafka) as scan:
        thread = await log.replayer(scan).thread("default/a")

    assert list(thread.turns) == [turn_id(1), turn_id(3)]
    first, second = thread.turns.values()
    assert thread.problems == []
    assert first.input is not None
    assert (first.input.text, first.input.correlation_id) == ("Say hello", "c-1")
    assert second.input is not None
    assert (second.input.kind, second.input.payload) == ("StartTurn", '{"messages": []}')


async def test_a_turn_alone_is_found_wherever_it_is(log: Log):
    gone = (log.topics.turns_of("default"), 0, 10**6)
    for number in range(8):
        await log.put(f"t{number}", turn_records(f"t{number}", turn_id(number), "x", gone))

    async with LogScan(log.kafka) as scan:
        thread = await log.replayer(scan).turn(turn_id(5))
        with pytest.raises(NotFoundError):
            await log.replayer(scan).turn(turn_id(99))
        with pytest.raises(NotFoundError):
            await log.replayer(scan).turn(turn_id(5), tenant="acme")

    assert thread.thread_id == "t5"
    assert list(thread.turns) == [turn_id(5)]
    assert thread.turns[turn_id(5)].input is not None
    assert not thread.turns[turn_id(5)].input.found


async def test_a_thread_is_found_after_its_topic_has_grown(log: Log):
    source = (log.topics.turns_of("default"), 0, 0)
    await log.put("a", turn_records("a", turn_id(1), "Hello", source))
    client = AIOKafkaAdminClient(bootstrap_servers=log.kafka)
    await client.start()
    await client.create_partitions({log.topics.events: NewPartitions(total_count=13)})
    await client.close()
    assert partition_of(b"default/a", 13) != partition_of(b"default/a", PARTITIONS)

    async with LogScan(log.kafka) as scan:
        thread = await log.replayer(scan).thread("default/a")

    assert list(thread.turns) == [turn_id(1)]


async def test_the_command_line(log: Log):
    line = b'{"thread_id": "a", "text": "Say hello"}'
    records = turn_records("a", turn_id(1), "Hello", await log.ask("a", line))
    await log.put("a", records)

    shown = log.view("--thread", "a")
    as_json = log.view("--turn", turn_id(1), "--json")

    assert shown.returncode == 0, shown.stderr
    assert "Say hello" in shown.stdout
    assert "2 texts match their SHA-256; no gaps" in shown.stdout
    assert as_json.returncode == 0, as_json.stderr
    found = json.loads(as_json.stdout)
    assert found["ok"] is True
    assert found["turns"][0]["entries"][0]["text"] == "Hello"
    assert found["turns"][0]["entries"][0]["intact"] is True
    assert found["turns"][0]["outcome"]["type"] == "TurnCompleted"


async def test_the_command_line_fails_where_a_digest_differs(log: Log):
    source = (log.topics.turns_of("default"), 0, 0)
    records = turn_records("a", turn_id(1), "Hello", source)
    await log.put("a", [record for record in records if record.n != 3])

    shown = log.view("--thread", "a", "--json")

    assert shown.returncode == 3
    assert json.loads(shown.stdout)["ok"] is False


async def test_the_command_line_says_partial_where_the_beginning_is_gone(log: Log):
    source = (log.topics.turns_of("default"), 0, 0)
    await log.put("a", turn_records("a", turn_id(1), "Hello", source))
    target = TopicPartition(log.topics.events, partition_of(b"default/a", PARTITIONS))
    client = AIOKafkaAdminClient(bootstrap_servers=log.kafka)
    await client.start()
    await client.delete_records({target: RecordsToDelete(4)})
    await client.close()

    shown = log.view("--thread", "a", "--json")

    assert shown.returncode == 0, shown.stdout
    assert json.loads(shown.stdout)["turns"][0]["state"] == "partial"


async def test_the_command_line_names_what_is_not_there(log: Log):
    missing = log.view("--thread", "nobody")
    both = log.view("--thread", "a", "--turn", turn_id(1))

    assert missing.returncode == 1
    assert "unknown_thread" in missing.stderr
    assert both.returncode == 2
