"""The pump on a real broker: order, rounds, refusals, and what a missing ack does not do."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.write.producer import pump_producer
from turnstream.connectors.kafka.write.pump import Pump
from turnstream.schemas.errors import ConfigurationError, ProduceRefusedError
from turnstream.schemas.topics import Topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Recorder:
    """A sender that notes what it hears."""

    def __init__(self, pump: Pump, to: TopicPartition, *, name: str = "s") -> None:
        self.pump, self.to, self.name = pump, to, name
        self.dead = False
        self.seen: list[tuple[int, int]] = []
        self.errors: list[ProduceRefusedError] = []
        self.open: list[str] = []
        self.n = 0

    def say(self, value: bytes, *, urgent: bool = False) -> None:
        self.n += 1
        self.pump.put(self.to, self, self.n, self.name.encode(), value, urgent=urgent)

    def join(self, text: str) -> None:
        self.open.append(text)
        self.pump.mark(self.to, self)

    def seal(self) -> None:
        if self.open:
            text, self.open = "".join(self.open), []
            self.say(text.encode())

    def landed(self, n: int, offset: int) -> None:
        self.seen.append((n, offset))

    def refused(self, error: ProduceRefusedError) -> None:
        self.dead = True
        self.errors.append(error)


async def until(condition, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def topic(kafka: str, prefix: str) -> str:
    name = f"{prefix}turn-events"
    async with TopicAdmin(kafka) as admin:
        await admin.create([Topic(name, 3, {"max.message.bytes": "1000000"})])
    return name


@contextlib.asynccontextmanager
async def running(kafka: str, topics: list[str], **options) -> AsyncIterator[Pump]:
    pump = Pump(pump_producer(kafka, topics), **options)
    await pump.start()
    test = asyncio.current_task()
    task = asyncio.create_task(pump.run())
    task.add_done_callback(lambda done: done.cancelled() or test.cancel())
    try:
        yield pump
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def read(kafka: str, topic: str, count: int) -> list:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=kafka, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


async def test_keeps_order_and_tells_offsets(kafka: str, topic: str) -> None:
    async with running(kafka, [topic]) as pump:
        senders = [Recorder(pump, TopicPartition(topic, i % 3), name=f"s{i}") for i in range(20)]
        for i in range(500):
            for sender in senders:
                sender.say(b"%d" % i)
            if i % 50 == 0:
                await asyncio.sleep(0)
        await until(lambda: all(len(s.seen) == 500 for s in senders))
        assert pump.idle
        assert pump.records == 10_000
        assert pump.queued_bytes == 0
    records = await read(kafka, topic, 10_000)
    by_key: dict[bytes, list] = {}
    for record in records:
        by_key.setdefault(record.key, []).append(record)
    for sender in senders:
        mine = by_key[sender.name.encode()]
        assert [int(r.value) for r in mine] == list(range(500))
        assert [offset for _, offset in sender.seen] == [r.offset for r in mine]
        assert [n for n, _ in sender.seen] == list(range(1, 501))


async def test_rounds_are_a_tick_apart(kafka: str, topic: str) -> None:
    async with running(kafka, [topic], tick_s=0.5) as pump:
        sender = Recorder(pump, TopicPartition(topic, 0))
        started = time.monotonic()
        sender.say(b"warm", urgent=True)
        await until(lambda: len(sender.seen) == 1)
        before = pump.rounds
        for _ in range(20):
            sender.join("x")
            await asyncio.sleep(0)
        await until(lambda: len(sender.seen) == 2)
        assert time.monotonic() - started >= 0.4, "the tick was not waited for"
        assert pump.rounds == before + 1
    values = [r.value for r in await read(kafka, topic, 2)]
    assert values == [b"warm", b"x" * 20]


async def test_what_is_urgent_waits_for_no_tick(kafka: str, topic: str) -> None:
    """Neither after a round nor while one is on its way."""
    async with running(kafka, [topic], tick_s=600.0) as pump:
        sender = Recorder(pump, TopicPartition(topic, 0))
        sender.say(b"1", urgent=True)
        await until(lambda: len(sender.seen) == 1)
        sender.say(b"2", urgent=True)
        await until(lambda: bool(pump._rounds.by_leader) or len(sender.seen) == 2)
        sender.say(b"3", urgent=True)
        await until(lambda: len(sender.seen) == 3)


async def test_a_refused_batch_ends_its_senders_and_nobody_else(kafka: str, topic: str) -> None:
    async with running(kafka, [topic]) as pump:
        guilty = Recorder(pump, TopicPartition(topic, 0), name="guilty")
        beside = Recorder(pump, TopicPartition(topic, 0), name="beside")
        elsewhere = Recorder(pump, TopicPartition(topic, 1), name="elsewhere")
        guilty.say(b"fine")
        elsewhere.say(b"1")
        await until(lambda: guilty.seen and elsewhere.seen)
        old = pump._producer.get()
        beside.say(b"in the same batch")
        guilty.say(b"x" * 1_500_000)
        guilty.say(b"never sent: it stands behind the gap")
        elsewhere.say(b"2")
        await until(lambda: guilty.errors and len(elsewhere.seen) == 2)
        assert guilty.errors[0].code == "produce_refused"
        await until(lambda: pump._producer.usable and pump._producer.get() is not old)
        # the partition takes records again, at once, through the fresh producer
        later = Recorder(pump, TopicPartition(topic, 0), name="later")
        later.say(b"after")
        elsewhere.say(b"3")
        await until(lambda: later.seen and len(elsewhere.seen) == 3)
        assert pump.refusals == 1
        # who was in the refused batch has ended; who was only on another partition has not
        assert bool(beside.errors) != bool(beside.seen)
        assert not elsewhere.errors
    total = 5 + len(beside.seen)
    values = {r.value for r in await read(kafka, topic, total)}
    assert b"never sent: it stands behind the gap" not in values
    assert b"after" in values


async def test_dead_senders_are_dropped_unsent(kafka: str, topic: str) -> None:
    async with running(kafka, [topic], tick_s=0.2) as pump:
        first = Recorder(pump, TopicPartition(topic, 0))
        first.say(b"warm", urgent=True)
        await until(lambda: len(first.seen) == 1)
        dead, alive = (Recorder(pump, TopicPartition(topic, 0)) for _ in range(2))
        dead.say(b"dead")
        dead.dead = True
        alive.say(b"alive")
        await until(lambda: len(alive.seen) == 1)
        assert not dead.seen
        assert pump.queued_bytes == 0
    assert [r.value for r in await read(kafka, topic, 2)] == [b"warm", b"alive"]


async def test_a_closed_gate_keeps_everything_back(kafka: str, topic: str) -> None:
    open_now = False
    async with running(kafka, [topic], gate=lambda: open_now) as pump:
        sender = Recorder(pump, TopicPartition(topic, 0))
        sender.say(b"1", urgent=True)
        sender.join("2")
        rounds = pump.rounds
        with pytest.raises(TimeoutError):
            await until(lambda: bool(sender.seen), timeout_s=0.2)
        assert pump.rounds == rounds
        open_now = True
        pump.hurry()
        await until(lambda: len(sender.seen) == 2)


async def test_deliver_returns_the_offset(kafka: str, topic: str) -> None:
    async with running(kafka, [topic]) as pump:
        to = TopicPartition(topic, 2)
        offsets = await asyncio.gather(*(pump.deliver(to, b"k", b"%d" % i) for i in range(5)))
        assert offsets == sorted(offsets)
        assert len(set(offsets)) == 5
        with pytest.raises(ProduceRefusedError):
            await pump.deliver(to, b"k", b"x" * 1_500_000)
        assert await pump.deliver(to, b"k", b"again") > offsets[-1]


async def test_a_partition_that_is_not_there_is_a_refusal(kafka: str, topic: str) -> None:
    async with running(kafka, [topic]) as pump:
        with pytest.raises(ProduceRefusedError):
            await pump.deliver(TopicPartition(topic, 99), b"k", b"v")
        assert await pump.deliver(TopicPartition(topic, 0), b"k", b"v") >= 0


async def test_flush_waits_for_everything(kafka: str, topic: str) -> None:
    async with running(kafka, [topic], tick_s=0.05) as pump:
        senders = [Recorder(pump, TopicPartition(topic, i)) for i in range(3)]
        for sender in senders:
            sender.say(b"1")
            sender.join("2")
        await pump.flush()
        assert [len(s.seen) for s in senders] == [2, 2, 2]


async def test_an_error_in_a_sender_stops_the_pump(kafka: str, topic: str) -> None:
    pump = Pump(pump_producer(kafka, [topic]))

    class Broken(Recorder):
        def landed(self, n: int, offset: int) -> None:
            raise ZeroDivisionError

    task = asyncio.create_task(pump.run())
    Broken(pump, TopicPartition(topic, 0)).say(b"x")
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(task, 60)


async def test_missing_topics_are_named_at_the_start(kafka: str, prefix: str) -> None:
    pump = Pump(pump_producer(kafka, [f"{prefix}nowhere"]))
    with pytest.raises(ConfigurationError, match="nowhere"):
        await pump.start()
