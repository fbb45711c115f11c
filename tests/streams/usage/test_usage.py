"""The usage processor as a process: exact totals whatever dies, and bad records parked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.read.scan import LogScan
from turnstream.schemas.records.commands import StartTurn
from turnstream.schemas.records.events import Usage
from turnstream.schemas.records.results import DeadLetter, TurnResult, UsageTotal
from turnstream.schemas.topics import Topics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

CODEC = Codec()
HOUR_US = 3_600_000_000


def result(number: int, tenant: str = "default") -> TurnResult:
    turn_id = str(uuid.uuid5(uuid.NAMESPACE_URL, str(number)))
    return TurnResult(
        event_id=f"{turn_id}-result",
        tenant=tenant,
        thread_id=f"t{number % 7}",
        turn_id=turn_id,
        status="completed",
        at=(number % 2) * HOUR_US,
        usage=[Usage(model="m", input_tokens=number, output_tokens=1)],
    )


@pytest.fixture
async def topics(kafka: str, prefix: str) -> AsyncIterator[Topics]:
    topics = Topics(prefix)
    wanted = topics.all(("default",), 3)
    async with TopicAdmin(kafka) as admin:
        await admin.create(wanted)
    yield topics
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    await client.delete_topics([topic.name for topic in wanted])
    await client.close()


@pytest.fixture
def processor(
    kafka: str, database: str, topics: Topics, tmp_path: Path
) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    env = {
        **os.environ,
        "TURNSTREAM_KAFKA_BOOTSTRAP": kafka,
        "TURNSTREAM_DATABASE_URL": database,
        "TURNSTREAM_TOPIC_PREFIX": topics.prefix,
        "TURNSTREAM_PARTITIONS": "3",
        "TURNSTREAM_PROCESSOR_FOLDER": str(tmp_path / "faust"),
    }
    started: list[subprocess.Popen[bytes]] = []
    log = tmp_path / "processor.log"

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "turnstream.streams.cli", "processor", "usage"]
        with log.open("ab") as out:
            started.append(subprocess.Popen(command, env=env, stdout=out, stderr=out))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
    sys.stdout.write(log.read_text(errors="replace")[-4000:])


async def publish(
    kafka: str, topic: str, values: list[bytes], *, headers: Any = (), compression: Any = None
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", compression_type=compression)
    await producer.start()
    try:
        for number, value in enumerate(values):
            await producer.send(topic, value, key=b"default/t%d" % (number % 7), headers=headers)
        await producer.flush()
    finally:
        await producer.stop()


async def latest(kafka: str, topic: str) -> dict[bytes, UsageTotal]:
    totals: dict[bytes, UsageTotal] = {}
    async with LogScan(kafka) as scan:
        async for batch in scan.read(topic, await scan.spans(topic)):
            for record in batch:
                total = CODEC.decode(record.value)
                assert isinstance(total, UsageTotal)
                totals[record.key] = total
    return totals


async def letters(kafka: str, topic: str) -> list[DeadLetter]:
    async with LogScan(kafka) as scan:
        spans = await scan.spans(topic)
        values = [record.value async for batch in scan.read(topic, spans) for record in batch]
    found = [CODEC.decode(value) for value in values]
    return [letter for letter in found if isinstance(letter, DeadLetter)]


async def until(check: Callable[[], object], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not await check():  # type: ignore[misc]
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.2)


@pytest.mark.timeout(180)  # after a kill the group waits for the dead member's session, 10 s
async def test_totals_are_exact_through_a_kill(
    kafka: str, topics: Topics, processor: Callable[[], subprocess.Popen[bytes]]
):
    numbers = range(1500)
    values = [CODEC.encode(result(number)) for number in numbers]
    results = topics.results_of("default")
    expected = {
        b"default/%d/m" % (hour * 3600): (750, sum(n for n in numbers if n % 2 == hour))
        for hour in (0, 1)
    }

    async def counted() -> dict[bytes, tuple[int, int]]:
        found = await latest(kafka, topics.usage)
        return {key: (total.turns, total.input_tokens) for key, total in found.items()}

    async def begun() -> bool:
        return bool(await counted())

    async def all_there() -> bool:
        return await counted() == expected

    await publish(kafka, results, values)
    first = processor()
    await until(begun, 60)
    first.send_signal(signal.SIGKILL)
    first.wait()
    await publish(kafka, results, values[:500])  # again: each still counts once
    processor()

    await until(all_there, 90)
    assert await letters(kafka, topics.dead_letters) == []


async def test_what_cannot_be_counted_is_parked_and_stops_nobody(
    kafka: str, topics: Topics, processor: Callable[[], subprocess.Popen[bytes]]
):
    bad = {
        b"rubbish": "not_avro",
        b"\xc3\x01" + b"12345678" + b"newer": "unknown_schema",
        CODEC.encode(StartTurn(thread_id="t", text="x")): "not_a_result",
        CODEC.encode(result(1, tenant="acme")): "tenant_mismatch",
        CODEC.encode(result(2))[:-3]: "corrupt",
        b"": "empty",
    }
    # a record that was refused, and then requeued: its turn counts once, with the turn's usage
    refused = msgspec.structs.replace(result(4), status="rejected", code="dead_letter")
    good = [CODEC.encode(one) for one in (refused, result(4))]
    process = processor()
    await publish(kafka, topics.results_of("default"), [*good, *bad])
    # compressed, and with header values that are null
    await publish(
        kafka,
        topics.results_of("default"),
        [CODEC.encode(result(6))],
        headers=[("type", None)],
        compression="snappy",
    )

    async def parked() -> bool:
        return len(await letters(kafka, topics.dead_letters)) == len(bad)

    async def counted() -> bool:
        found = await latest(kafka, topics.usage)
        return [(t.turns, t.input_tokens) for t in found.values()] == [(2, 10)]

    await until(parked, 60)
    await until(counted, 60)
    for letter in await letters(kafka, topics.dead_letters):
        assert letter.code == bad[letter.value]
        assert letter.topic == topics.results_of("default")

    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 60) == 0
