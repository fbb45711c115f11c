"""Print the tables "token path" and "turns", with the in-process template in the same run.

`python -m tests.bench [--seconds S] [--only token-path|turns]`. Ratios against the template hold on
any machine; absolute figures are this machine's, and the share that others used of it is printed
beside. No row fails because the machine was slow: each prints its floor, its aim and the distance.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
import uuid

import msgspec
import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.bench.load import Measured, Ours, Theirs, run
from tests.bench.machine import percentiles
from tests.bench.stacks import Bench, running

PACED = "tokens=100 rate=50 ttft=0.2 stamp=1"
FLAT = "tokens=400 rate=0 ttft=0 stamp=1"


def line(name: str, value: str, floor: str, aim: str, verdict: str = "") -> None:
    print(f"  {name:<66} {value:>16}  floor {floor:<10} aim {aim:<10} {verdict}", flush=True)


def judge(value: float, floor: float, aim: float, *, more: bool = False) -> str:
    """Say whether the floor is met and how far the aim is."""
    if math.isnan(value):
        return "not measured"
    met = value >= floor if more else value <= floor
    distance = (aim / value if more else value / aim) if value else 0
    return ("floor met" if met else "FLOOR MISSED") + (
        ", aim met" if distance <= 1 else f", aim {distance:.2f}x away"
    )


def shares(row: Measured) -> str:
    parts = ", ".join(
        f"{name} {spent / row.usage.wall_s:.2f}" for name, spent in row.usage.parts.items()
    )
    errors = f"; {len(row.errors)} errors: {row.errors[0]}" if row.errors else ""
    return f"    cores: {parts}; others {row.usage.others_share:.0%} of the machine{errors}"


async def token_path(bench: Bench, seconds: float) -> None:
    async def ours(streams: int, text: str, ttft_s: float = 0.2) -> Measured:
        return await run(
            Ours, bench.edge_port, bench.pids,
            streams=streams, text=text, ttft_s=ttft_s, seconds=seconds,
        )  # fmt: skip

    async def theirs(streams: int, text: str, ttft_s: float = 0.2) -> Measured:
        return await run(
            Theirs, bench.template_port, bench.template_pids,
            streams=streams, text=text, ttft_s=ttft_s, seconds=seconds,
        )  # fmt: skip

    print(
        f"\ntoken path ({seconds:.0f} s a row, 50 tok/s a stream, 100-token turns, durability sync)"
    )
    await ours(20, PACED)  # warm
    row = await ours(100, PACED)
    p50, p99 = (1e3 * value for value in percentiles(row.latencies, 0.5, 0.99))
    line("latency added per token p50, 100 streams (ms)", f"{p50:.1f}", "5", "4", judge(p50, 5, 4))
    line("latency added per token p99 (ms)", f"{p99:.1f}", "15", "12", judge(p99, 15, 12))
    f50, f99 = (1e3 * value for value in percentiles(row.first, 0.5, 0.99))
    line("time added to the first token p50 (ms)", f"{f50:.1f}", "15", "10", judge(f50, 15, 10))
    line("time added to the first token p99 (ms)", f"{f99:.1f}", "35", "25", judge(f99, 35, 25))
    rate = row.tokens / row.usage.wall_s
    cpu = row.cpu_us_per_token("worker", "edge")
    line(
        f"worker + edge CPU per token at {rate:.0f} tok/s (us)",
        f"{cpu:.0f}",
        "108",
        "75",
        judge(cpu, 108, 75),
    )
    print(shares(row))
    row = await ours(200, PACED)
    rate, cpu = row.tokens / row.usage.wall_s, row.cpu_us_per_token("worker", "edge")
    line(
        f"worker + edge CPU per token at {rate:.0f} tok/s (us)",
        f"{cpu:.0f}",
        "86",
        "60",
        judge(cpu, 86, 60),
    )
    print(shares(row))
    mine, base = await ours(40, PACED), await theirs(40, PACED)
    a, b = mine.cpu_us_per_token("worker", "edge"), base.cpu_us_per_token("template")
    line(
        f"CPU per token, template / ours, paced 40 streams ({b:.0f} / {a:.0f} us)",
        f"{b / a:.1f}x",
        "6x",
        "10x",
        judge(b / a, 6, 10, more=True),
    )
    (mine99,), (base99,) = percentiles(mine.first, 0.99), percentiles(base.first, 0.99)
    ratio = base99 / mine99
    line(
        f"TTFT added p99, template / ours ({base99 * 1e3:.0f} / {mine99 * 1e3:.0f} ms)",
        f"{ratio:.1f}x",
        "8x",
        "10x",
        judge(ratio, 8, 10, more=True),
    )
    print(shares(mine))
    print(shares(base))
    mine, base = await ours(40, FLAT, 0), await theirs(40, FLAT, 0)
    a, b = mine.cpu_us_per_token("worker", "edge"), base.cpu_us_per_token("template")
    line(
        f"CPU per token, template / ours, flat out ({b:.0f} / {a:.1f} us)",
        f"{b / a:.1f}x",
        "25x",
        "40x",
        judge(b / a, 25, 40, more=True),
    )
    print(
        f"    tok/s: {mine.tokens / mine.usage.wall_s:.0f} to {base.tokens / base.usage.wall_s:.0f}"
    )
    print(shares(mine))
    print(shares(base))


async def turns(bench: Bench, settings: dict[str, str], count: int) -> None:
    """One-token turns through Kafka: published at once, counted on `turn-results.default`."""
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
        from tests.bench.machine import Meter

        meter = Meter(bench.pids)
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


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--turns", type=int, default=3000)
    parser.add_argument("--only", choices=("token-path", "turns"))
    options = parser.parse_args()
    async with running({}) as bench:
        if options.only != "turns":
            await token_path(bench, options.seconds)
        if options.only != "token-path":
            await turns(bench, bench.settings, options.turns)


if __name__ == "__main__":
    asyncio.run(main())
