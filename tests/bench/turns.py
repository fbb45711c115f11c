"""The table "turns": one-token turns through Kafka."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import msgspec
import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.bench.machine import Meter
from tests.bench.rows import judge, line

if TYPE_CHECKING:
    from tests.bench.stacks import Bench


async def turns(bench: Bench, settings: dict[str, str], count: int) -> int:
    """One-token turns through Kafka: published at once, counted on `turn-results.default`.

    Returns how many did not end in two minutes.
    """
    print(
        f"\nturns ({count} one-token turns on as many threads, in through Kafka, durability sync)"
    )
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
        commits = _commits(settings["TURNSTREAM_DATABASE_URL"])
        meter = Meter(bench.pids)
        bench.sampling()
        meter.start()
        began = time.monotonic()
        for _ in range(count):
            thread = str(uuid.uuid4())
            body = {"thread_id": thread, "text": "tokens=1 rate=0 ttft=0"}
            await producer.send(
                f"{prefix}turns.default",
                msgspec.json.encode(body),
                key=f"default/{thread}".encode(),
            )
        await producer.flush()
        done = 0
        while done < count and time.monotonic() - began < 120:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                done += len(records)
        took = time.monotonic() - began
        usage = meter.stop()
        bench.sampling()
        rate = done / took
        line(
            f"one-token turns/s, {done} of {count} done in {took:.1f} s",
            f"{rate:.0f}",
            "250",
            "400",
            judge(rate, 250, 400, more=True),
        )
        spent = (_commits(settings["TURNSTREAM_DATABASE_URL"]) - commits) / max(1, done)
        line(
            "Postgres transactions a turn, amortised ones included",
            f"{spent:.2f}",
            "5",
            "2.2",
            judge(spent, 5, 2.2),
        )
        parts = ", ".join(f"{name} {s / done * 1e3:.2f}" for name, s in usage.parts.items())
        print(f"    CPU ms a turn: {parts}; others {usage.others_share:.0%} of the machine")
        if bench.stacks:
            print(bench.profile())
        return count - done
    finally:
        await producer.stop()
        await consumer.stop()


def _commits(database: str) -> int:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
        return int(row[0])
