"""Bounded reads of a real log."""

from __future__ import annotations

import time
from contextlib import aclosing

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.read.scan import LogScan, Span, partition_of
from turnstream.schemas.errors import NotFoundError
from turnstream.schemas.topics import Topic


@pytest.fixture
async def topic(kafka: str, prefix: str):
    name = f"{prefix}scan"
    async with TopicAdmin(kafka) as admin:
        await admin.create([Topic(name, 3, {})])
    await _write(kafka, name, range(600))
    yield name
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    await client.delete_topics([name])
    await client.close()


async def _write(kafka: str, name: str, numbers: range) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
    await producer.start()
    try:
        for number in numbers:
            await producer.send(name, b"%d" % number, key=b"key-%d" % (number % 10))
        await producer.flush()
    finally:
        await producer.stop()


async def test_reads_all_once_in_order_and_ends(kafka: str, topic: str):
    async with LogScan(kafka) as scan:
        spans = await scan.spans(topic)
        await _write(kafka, topic, range(600, 700))  # after the end was asked: not read
        seen = [record async for batch in scan.read(topic, spans) for record in batch]

    assert sorted(int(record.value) for record in seen) == list(range(600))
    for key in {record.key for record in seen}:
        numbers = [int(record.value) for record in seen if record.key == key]
        assert numbers == sorted(numbers)
    assert all(record.partition == partition_of(record.key, 3) for record in seen)


async def test_reads_what_retention_has_left(kafka: str, topic: str):
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(50)})
    await client.close()
    async with LogScan(kafka) as scan:
        span = (await scan.spans(topic))[0]
        assert span.first == 50
        stale = Span(0, 0, span.end)  # asked before the records went
        seen = [record async for batch in scan.read(topic, [stale]) for record in batch]

    assert [record.offset for record in seen] == list(range(50, span.end))


async def test_it_closes_at_once_after_reads_that_were_broken_off(kafka: str, topic: str):
    took = []
    for _ in range(5):
        async with LogScan(kafka) as scan:
            for span in await scan.spans(topic):
                async with aclosing(scan.read(topic, [span])) as batches:
                    assert await anext(batches)
            leaving = time.monotonic()
        took.append(time.monotonic() - leaving)
    assert min(took) < 1.0, took  # a busy machine delays some, not all of them


async def test_single_records(kafka: str, topic: str):
    async with LogScan(kafka) as scan:
        record = await scan.record(topic, 1, 5)
        assert record is not None
        assert (record.partition, record.offset) == (1, 5)
        assert await scan.record(topic, 1, 10**9) is None
        assert await scan.record(f"{topic}-not", 0, 0) is None
        with pytest.raises(NotFoundError):
            await scan.spans(f"{topic}-not")
