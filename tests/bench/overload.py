"""The table "overload": far more turns than can be served, through Kafka and HTTP at once."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from tests.bench.burst import backend
from tests.bench.flood import Options, Report
from tests.bench.load import Published, run
from tests.bench.machine import percentiles
from tests.bench.rows import judge, line, ms
from tests.bench.scrape import Watching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.bench.load import Measured
    from tests.bench.stacks import Bench

OPEN_TURNS_MAX = 300
THREADS = 200
SHORT = "tokens=20 rate=0 ttft=0"
WATCHED = 10
HEAD_START_S = 3.0
"""Of the watched turns."""
CALM_S = 5.0
DRAIN_S = 1200.0


async def served(settings: dict[str, str]) -> float:
    """Return how many turns a second are served, once all is warm."""
    async with backend(settings) as log:
        for count in (100, 400):
            began = time.monotonic()
            for i in range(count):
                await log.send(f"before-{i % THREADS}", SHORT)
            if await log.all_ended(120):
                raise SystemExit("the turns before the load do not end")
        return count / (time.monotonic() - began)


@asynccontextmanager
async def flooding(options: Options) -> AsyncIterator[asyncio.Future[Report]]:
    """Start the load after a head start; the report comes once everything was served."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.flood", json.dumps(asdict(options)),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def report() -> Report:
        last = ""
        while raw := await process.stdout.readline():
            last = raw.decode().rstrip()
            if not last.startswith("{"):
                print(last, flush=True)
        if await process.wait():
            raise SystemExit(f"the load ended with {process.returncode}")
        return Report(**json.loads(last))

    reading = asyncio.ensure_future(report())
    try:
        yield reading
    finally:
        reading.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def overload(
    bench: Bench, settings: dict[str, str], seconds: float, kafka_share: float
) -> int:
    """Return what went wrong: turns lost, failed or out of order, answers without Retry-After."""
    can = await served(settings)
    rate = 10 * can
    options = Options(
        port=bench.edge_port, settings=settings, text=SHORT, threads=THREADS,
        head_start_s=HEAD_START_S, seconds=seconds,
        kafka_rate=kafka_share * rate, http_rate=(1 - kafka_share) * rate, drain_s=DRAIN_S,
    )  # fmt: skip
    print(
        f"\noverload ({can:.0f} turns/s can be served; {options.kafka_rate:.0f}/s through Kafka and"
        f" {options.http_rate:.0f}/s over HTTP for {seconds:.0f} s; {OPEN_TURNS_MAX} may be open)",
        flush=True,
    )
    # the watched turns begin before it, and last longer
    text = f"tokens={round(20 * (seconds + HEAD_START_S + 20))} rate=20 ttft=0.2 stamp=1"
    brief = f"tokens={round(20 * CALM_S)} rate=20 ttft=0.2 stamp=1"
    watch = {"streams": WATCHED, "ttft_s": 0.2, "turn_timeout_s": 600}
    calm = await run(Published, bench.edge_port, bench.pids, seconds=CALM_S, text=brief, **watch)
    watching = Watching(bench)
    async with flooding(options) as reading, watching.going():
        busy = await run(
            Published, bench.edge_port, bench.pids, seconds=seconds + HEAD_START_S, text=text,
            sampling=bench.sampling, **watch,
        )  # fmt: skip
        during(calm, "before")
        during(busy, "meanwhile")
        print(f"    {watching.said()}")
        if bench.stacks:
            print(bench.profile())
        report = await reading
    return told(report) + len(calm.errors) + len(busy.errors)


def during(row: Measured, when: str) -> None:
    """Print the latency of the turns that run, and which part of a second each process had."""
    p50, p99 = (1e3 * value for value in percentiles(row.latencies, 0.5, 0.99))
    print(f"  running turns {when}: added per token p50 / p99 {ms(p50)} / {ms(p99)} ms")
    usage = row.usage
    print(f"    cores: {usage.said()}; others, the load among them, {usage.others_share:.0%}")


def told(report: Report) -> int:
    """Print what the load came to; returns what went wrong."""
    p99 = report.refused_ms["p99"]
    count = report.status.get("503", 0)
    line(f"503 with Retry-After, p99 of {count} (ms)", ms(p99), "-", "100", judge(p99, None, 100))
    print(
        f"    503 in ms: {report.refused_ms}; of this the load's own loop was late by"
        f" {report.lag_ms}; before it, requests waited to be sent for {report.late_ms}"
    )
    print(
        f"  answers {report.status}, {report.broken} broken, {report.unsent} not sent; accepted"
        f" again after {report.again_s:.1f} s; Kafka turns: {report.sent} sent, all served after"
        f" {report.drained_s:.0f} s, {report.left} left, {report.failed} failed,"
        f" {report.out_of_order} threads out of order"
    )
    wrong = report.left + report.failed + report.out_of_order + report.without_retry
    return (
        wrong
        + report.broken
        + sum(n for status, n in report.status.items() if status not in {"200", "503"})
    )
