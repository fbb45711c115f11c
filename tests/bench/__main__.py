"""Print the tables "token path" and "turns", with the in-process template in the same run.

`python -m tests.bench [--seconds S] [--turns N] [--only TABLE] [--profile]`, TABLE one of idle,
token-path, brought, turns. Ratios against the template hold on any machine; absolute figures are
this machine's, and the share that others used of it is printed beside. No row fails because the
machine was slow: each prints its floor, its aim and the distance. Exits with 1 where a stream or a
turn failed.

Uses TURNSTREAM_TEST_KAFKA and TURNSTREAM_TEST_DATABASE if both are set, else starts its own. What
others do with the same broker meanwhile shows in the latencies. Turns of the token path come in
through Kafka, as those did that the floors were measured with; a row says what starting them over
HTTP adds.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
import uuid
from collections import Counter
from contextlib import AsyncExitStack

import msgspec
import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.bench.load import Brought, Measured, Ours, Published, Theirs, run
from tests.bench.machine import Meter, percentiles
from tests.bench.stacks import Bench, running

PACED = "tokens=100 rate=50 ttft=0.2 stamp=1"
FLAT = "tokens=400 rate=0 ttft=0 stamp=1"


def line(name: str, value: str, floor: str, aim: str, verdict: str = "") -> None:
    print(f"  {name:<66} {value:>16}  floor {floor:<10} aim {aim:<10} {verdict}", flush=True)


def judge(value: float, floor: float | None, aim: float, *, more: bool = False) -> str:
    """Say whether the floor is met, where there is one, and how far the aim is."""
    if math.isnan(value):
        return "NOT MEASURED"
    distance = (aim / value if more else value / aim) if value else 0
    words = ["aim met" if distance <= 1 else f"aim {distance:.2f}x away"]
    if floor is not None:
        met = value >= floor if more else value <= floor
        words.insert(0, "floor met" if met else "FLOOR MISSED")
    return ", ".join(words)


class Table:
    """Rows of one bench; `failed` counts streams and turns that did not do what they should."""

    def __init__(self, bench: Bench, seconds: float) -> None:
        self.bench, self.seconds, self.failed = bench, seconds, 0

    async def ours(
        self, streams: int, text: str, ttft_s: float = 0.2, kind: type[Ours] = Ours
    ) -> Measured:
        bench = self.bench
        return await run(
            kind, bench.edge_port, bench.pids,
            streams=streams, text=text, ttft_s=ttft_s, seconds=self.seconds,
            sampling=bench.sampling,
        )  # fmt: skip

    async def theirs(self, streams: int, text: str, ttft_s: float = 0.2) -> Measured:
        bench = self.bench
        return await run(
            Theirs, bench.template_port, bench.template_pids,
            streams=streams, text=text, ttft_s=ttft_s, seconds=self.seconds,
        )  # fmt: skip

    def below(self, row: Measured) -> None:
        """Say what stands below a row: cores by process, others' share, errors, the profile."""
        parts = ", ".join(
            f"{name} {spent / row.usage.wall_s:.2f}" for name, spent in row.usage.parts.items()
        )
        print(f"    cores: {parts}; others {row.usage.others_share:.0%} of the machine")
        self.failed += len(row.errors)
        for error, count in Counter(row.errors).most_common(5):
            print(f"    {count} x {error}")
        if "worker" in row.usage.parts and self.bench.stacks:
            print(self.bench.profile())

    async def idle(self) -> None:
        """What worker and edge cost while nothing is asked of them."""
        print(f"\nidle ({self.seconds:.0f} s, no stream open)")
        meter = Meter(self.bench.pids)
        meter.start()
        await asyncio.sleep(self.seconds)
        usage = meter.stop()
        for name in ("worker", "edge"):
            share = usage.parts[name] / usage.wall_s
            line(f"{name}, cores", f"{share:.3f}", "-", "0.02", judge(share, None, 0.02))
        print(f"    others {usage.others_share:.0%} of the machine")

    async def token_path(self) -> None:
        """Latency and CPU of the built-in graph."""
        print(
            f"\ntoken path ({self.seconds:.0f} s a row, 50 tok/s a stream, 100-token turns,"
            " durability sync)"
        )
        row = await self.ours(100, PACED, kind=Published)
        p50, p99 = (1e3 * value for value in percentiles(row.latencies, 0.5, 0.99))
        line("latency added per token p50, 100 streams (ms)", ms(p50), "5", "4", judge(p50, 5, 4))
        line("latency added per token p99 (ms)", ms(p99), "15", "12", judge(p99, 15, 12))
        f50, f99 = (1e3 * value for value in percentiles(row.first, 0.5, 0.99))
        line("time added to the first token p50 (ms)", ms(f50), "15", "10", judge(f50, 15, 10))
        line("time added to the first token p99 (ms)", ms(f99), "35", "25", judge(f99, 35, 25))
        self.cpu(row, 108, 75)
        self.cpu(await self.ours(200, PACED, kind=Published), 86, 60)
        await self.started_over_http()
        await self.against_template("paced 40 streams", PACED, 0.2, 6, 10)
        await self.against_template("flat out", FLAT, 0.0, 25, 40)

    async def started_over_http(self) -> None:
        """What `run.start` at the edge adds to the first row; it has no floor of its own."""
        row = await self.ours(100, PACED)
        f50, f99 = (1e3 * value for value in percentiles(row.first, 0.5, 0.99))
        cpu = row.cpu_us_per_token("worker", "edge")
        print(
            f"  the first row with run.start at the edge: time added to the first token p50 / p99"
            f" {ms(f50)} / {ms(f99)} ms, worker + edge CPU per token {cpu:.0f} us"
        )
        self.below(row)

    def cpu(self, row: Measured, floor: float, aim: float) -> None:
        rate, cpu = row.tokens / row.usage.wall_s, row.cpu_us_per_token("worker", "edge")
        line(
            f"worker + edge CPU per token at {rate:.0f} tok/s (us)",
            f"{cpu:.0f}",
            f"{floor:.0f}",
            f"{aim:.0f}",
            judge(cpu, floor, aim),
        )
        self.below(row)

    async def against_template(
        self, name: str, text: str, ttft_s: float, floor: float, aim: float
    ) -> None:
        mine = await self.ours(40, text, ttft_s, kind=Published)
        base = await self.theirs(40, text, ttft_s)
        self.ratio(f"CPU per token, template / ours, {name}", mine, base, floor, aim)
        (mine99,), (base99,) = percentiles(mine.first, 0.99), percentiles(base.first, 0.99)
        ratio = base99 / mine99
        if ttft_s:
            line(
                f"TTFT added p99, template / ours ({base99 * 1e3:.0f} / {mine99 * 1e3:.0f} ms)",
                f"{ratio:.1f}x",
                "8x",
                "10x",
                judge(ratio, 8, 10, more=True),
            )
        self.below(mine)
        self.below(base)

    def ratio(
        self, name: str, mine: Measured, base: Measured, floor: float | None, aim: float
    ) -> None:
        a, b = mine.cpu_us_per_token("worker", "edge"), base.cpu_us_per_token("template")
        line(
            f"{name} ({b:.0f} / {a:.0f} us)",
            f"{b / a:.1f}x",
            f"{floor:g}x" if floor is not None else "-",
            f"{aim:g}x",
            judge(b / a, floor, aim, more=True),
        )
        rates = (row.tokens / row.usage.wall_s for row in (mine, base))
        print("    tok/s: {:.0f} to {:.0f}".format(*rates))

    async def brought(self) -> None:
        """The template's own graph, run unmodified by our worker."""
        print(f"\ngraphs people bring ({self.seconds:.0f} s a row, 40 streams, ChatOpenAI)")
        mine = await self.ours(40, PACED, kind=Brought)
        base = await self.theirs(40, PACED)
        self.ratio("CPU per token, template / ours, the same graph", mine, base, None, 2)
        p50, p99 = (1e3 * value for value in percentiles(mine.latencies, 0.5, 0.99))
        q50, q99 = (1e3 * value for value in percentiles(base.latencies, 0.5, 0.99))
        print(f"    latency p50 / p99: ours {p50:.1f} / {p99:.1f}, theirs {q50:.1f} / {q99:.1f} ms")
        self.below(mine)
        self.below(base)


def ms(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.1f}"


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


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    parser.add_argument("--turns", type=int, default=3000, help="of the table of turns")
    parser.add_argument("--only", choices=("idle", "token-path", "brought", "turns"))
    parser.add_argument(
        "--profile", action="store_true", help="where worker and edge spend it; costs a tenth"
    )
    options = parser.parse_args()
    wanted = {options.only} if options.only else {"idle", "token-path", "brought", "turns"}
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(running({}, sample=options.profile))
        table = Table(bench, options.seconds)
        Published.topic = f"{bench.settings['TURNSTREAM_TOPIC_PREFIX']}turns.default"
        Published.log = log = AIOKafkaProducer(
            bootstrap_servers=bench.settings["TURNSTREAM_KAFKA_BOOTSTRAP"]
        )
        stack.push_async_callback(log.stop)
        await log.start()
        if "idle" in wanted:
            await table.idle()
        if wanted & {"token-path", "brought"}:  # warm, before the clock
            await run(
                Ours, bench.edge_port, bench.pids,
                streams=20, text=PACED, ttft_s=0.2, seconds=2,
            )  # fmt: skip
            await run(
                Theirs, bench.template_port, bench.template_pids,
                streams=20, text=PACED, ttft_s=0.2, seconds=2,
            )  # fmt: skip
        if "token-path" in wanted:
            await table.token_path()
        if "brought" in wanted:
            await table.brought()
        if "turns" in wanted:
            table.failed += await turns(bench, bench.settings, options.turns)
        if table.failed:
            print(f"\n{table.failed} streams or turns failed")
        return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
