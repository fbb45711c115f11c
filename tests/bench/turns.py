"""The table "turns": one-token turns through Kafka."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import psycopg

from tests.bench.burst import backend
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
    async with backend(settings) as log:
        commits = _commits(settings["TURNSTREAM_DATABASE_URL"])
        meter = Meter(bench.pids)
        bench.sampling()
        meter.start()
        began = time.monotonic()
        for _ in range(count):
            await log.send(str(uuid.uuid4()), "tokens=1 rate=0 ttft=0")
        left = await log.all_ended(120)
        done = count - left
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
        return left


def _commits(database: str) -> int:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
        return int(row[0])
