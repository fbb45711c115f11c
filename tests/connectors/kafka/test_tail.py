"""The tail on a real broker: readiness, keys, ring and log, recreation."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import OffsetOutOfRangeError

from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.read.tail import Tail, TailOptions
from turnstream.schemas.errors import DatabaseUnavailableError, NotFoundError, TopicChangedError
from turnstream.schemas.topics import Topic


class Numbers:
    """Incarnations in memory."""

    def __init__(self) -> None:
        self.seen: list[uuid.UUID] = []

    async def number(self, topic: str, topic_id: uuid.UUID) -> int:
        if topic_id not in self.seen:
            self.seen.append(topic_id)
        return self.seen.index(topic_id) + 1


class LateNumbers(Numbers):
    """The same, from a database that is away at first."""

    away = 3

    async def number(self, topic: str, topic_id: uuid.UUID) -> int:
        if self.away:
            self.away -= 1
            raise DatabaseUnavailableError("it is starting")
        return await super().number(topic, topic_id)


@pytest.fixture
async def topic(kafka, prefix):
    made = Topic(f"{prefix}log", 2, {"cleanup.policy": "delete"})
    async with TopicAdmin(kafka) as admin:
        await admin.create([made])
    return made.name


@pytest.fixture
async def producer(kafka):
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
    await producer.start()
    yield producer
    await producer.stop()


OPTIONS = TailOptions(fetch_max_wait_ms=50, ring_bytes_max=1 << 20, topic_check_s=0.5)


@asynccontextmanager
async def tailing(kafka, topic, options=OPTIONS, numbers=None):
    tail = Tail(kafka, topic, numbers or Numbers(), options)
    running = asyncio.create_task(tail.run())
    try:
        async with asyncio.timeout(60):
            while not tail.ready.is_set():
                if running.done():
                    running.result()
                await asyncio.sleep(0.01)
        yield tail
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def put(producer, topic, key, value, partition=0):
    return (await producer.send_and_wait(topic, value, key=key, partition=partition)).offset


async def reach(tail, partition, end):
    async with asyncio.timeout(60):
        while tail.end(partition) < end:
            await asyncio.sleep(0.005)


async def test_followers_are_told_of_their_key_only(kafka, topic, producer):
    async with tailing(kafka, topic) as tail:
        told = []
        tail.follow(b"a", lambda *record: told.append(record), pytest.fail)
        for number in range(10):
            await put(producer, topic, b"ab"[number % 2 :][:1], b"%d" % number)
        await reach(tail, 0, 10)
        assert told == [(0, number, b"%d" % number) for number in range(0, 10, 2)]
        tail.unfollow(b"a")
        await put(producer, topic, b"a", b"later")
        await reach(tail, 0, 11)
        assert len(told) == 5


async def test_a_former_leader_that_answers_late_turns_nothing_back(kafka, topic, producer):
    """A broker that was frozen sends what the next leader's answers already held, and errors."""
    async with tailing(kafka, topic) as tail:
        told, lost = [], []
        tail.follow(b"a", lambda *record: told.append(record), lost.append)
        await put(producer, topic, b"a", b"0")
        await reach(tail, 0, 1)
        late = tail._followed.ring._partitions[0].pieces[-1].raw
        await put(producer, topic, b"a", b"1")
        await reach(tail, 0, 2)
        tail._followed.take(0, late)
        await tail._fetching.refused(0, OffsetOutOfRangeError)
        assert (tail.end(0), lost) == (2, [])
        await put(producer, topic, b"a", b"2")
        await reach(tail, 0, 3)
        assert told == [(0, number, b"%d" % number) for number in range(3)]
        assert tail.held(0, b"a", 0) == [(number, b"%d" % number) for number in range(3)]


async def test_it_is_ready_when_it_has_what_stood_at_the_start(kafka, topic, producer):
    for number in range(20):
        await put(producer, topic, b"a", b"%d" % number, number % 2)
    async with tailing(kafka, topic) as tail:
        assert tail.end(0) == tail.end(1) == 10
        assert len(tail.held(0, b"a", 0)) == 10


async def test_without_a_warm_start_the_past_comes_from_the_log(kafka, topic, producer):
    for number in range(10):
        await put(producer, topic, b"ab"[number % 2 :][:1], b"%d" % number)
    cold = TailOptions(fetch_max_wait_ms=50, warm_s=0)
    async with tailing(kafka, topic, cold) as tail:
        assert tail.held(0, b"a", 0) is None
        found, reached = [], 0
        async for at, entries in tail.read(0, b"a", 0):
            found += entries
            reached = at
        assert found == [(number, b"%d" % number) for number in range(0, 10, 2)]
        assert reached == 10
        assert await tail.bounds(0) == (0, 10)
        assert await tail.at_time(0, 0) == 0
        assert await tail.at_time(0, int(time.time() * 1000) + 60_000) == 10


async def test_an_answer_larger_than_a_fetch(kafka, topic, producer):
    small = TailOptions(
        fetch_max_wait_ms=50, fetch_bytes_max=2000, partition_fetch_bytes_max=1000, warm_s=0
    )
    async with tailing(kafka, topic, small) as tail:
        told = []
        tail.follow(b"a", lambda *record: told.append(record), pytest.fail)
        for size in (10, 5000, 10, 20_000, 10):
            for partition in range(2):
                await put(producer, topic, b"a", b"x" * size, partition)
        for partition in range(2):
            await reach(tail, partition, 5)
        assert [len(value) for at, _, value in told if at == 0] == [10, 5000, 10, 20_000, 10]


async def test_a_topic_that_is_not_there(kafka, prefix):
    with pytest.raises(NotFoundError):
        await Tail(kafka, f"{prefix}none", Numbers(), OPTIONS).run()


async def test_it_knows_its_partitions_whichever_try_opens_it(kafka, topic, producer):
    async with tailing(kafka, topic, numbers=LateNumbers()) as tail:
        assert tail.partitions == 2
        end = await put(producer, topic, b"a", b"1") + 1
        await reach(tail, 0, end)


async def test_a_topic_made_anew_ends_it(kafka, topic, producer):
    async def remake():
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await admin.start()
        await admin.delete_topics([topic])
        await admin.close()
        async with TopicAdmin(kafka) as again:
            async with asyncio.timeout(60):
                while topic in await again.describe([topic]):
                    await asyncio.sleep(0.05)
            await again.create([Topic(topic, 2, {})])

    tail = Tail(kafka, topic, Numbers(), OPTIONS)
    running = asyncio.create_task(tail.run())
    async with asyncio.timeout(60):
        await tail.ready.wait()
        await remake()
        with pytest.raises((TopicChangedError, NotFoundError, ExceptionGroup)):
            await running
    assert not tail.ready.is_set()


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_what_the_broker_compresses_is_read_live_from_the_ring_and_from_the_log(
    kafka, prefix, codec
):
    made = Topic(f"{prefix}log", 1, {"compression.type": codec})
    async with TopicAdmin(kafka) as admin:
        await admin.create([made])
    value = b"token " * 50_000
    # the ring has room for the last records only
    options = TailOptions(fetch_max_wait_ms=50, ring_bytes_max=1 << 20, warm_s=0.0)
    async with (
        AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer,
        tailing(kafka, made.name, options) as tail,
    ):
        told = []
        tail.follow(b"a", lambda *record: told.append(record), pytest.fail)
        for number in range(12):
            await put(producer, made.name, b"ab"[number % 2 :][:1], b"%d " % number + value)
        await reach(tail, 0, 12)
        wanted = [(0, number, b"%d " % number + value) for number in range(0, 12, 2)]
        assert told == wanted
        begins = tail._followed.ring.begins(0)
        assert 0 < begins < 12
        held = tail.held(0, b"a", begins)
        past = [entry async for _, entries in tail.read(0, b"a", 0) for entry in entries]
        both = sorted({**dict(past), **dict(held)}.items())
        assert [(0, *entry) for entry in both] == wanted


async def test_a_batch_over_the_bound_is_left_out_and_the_rest_is_read(kafka, topic):
    options = TailOptions(fetch_max_wait_ms=50, batch_bytes_max=1 << 20)
    async with (
        AIOKafkaProducer(
            bootstrap_servers=kafka, compression_type="gzip", max_request_size=8 << 20
        ) as producer,
        tailing(kafka, topic, options) as tail,
    ):
        told = []
        tail.follow(b"a", lambda *record: told.append(record), pytest.fail)
        await put(producer, topic, b"a", b"before")
        await put(producer, topic, b"a", b"x" * (2 << 20))
        await put(producer, topic, b"a", b"after")
        await reach(tail, 0, 3)
        assert told == [(0, 0, b"before"), (0, 2, b"after")]
        assert [offset for offset, _ in tail.held(0, b"a", 0)] == [0, 2]
