"""The table "memory": RSS of worker and edge over many turns, and the longest pause."""

from __future__ import annotations

import re
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from tests.bench.burst import backend
from tests.bench.rows import judge, line
from tests.bench.scrape import metric

if TYPE_CHECKING:
    from tests.bench.burst import Backend
    from tests.bench.stacks import Bench

SAMPLES = 20
WAVE_MAX = 2000
"""Turns that are sent at once; more would only wait in Kafka."""
WARM_SHARE = 0.4
"""Of the turns: pools, caches and rings fill meanwhile."""
SHORT = "tokens=3 rate=0 ttft=0"
LONG = "tokens=500 rate=0 ttft=0"


def rss_kib(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def slope(samples: list[tuple[int, int]]) -> float:
    """Least squares: KiB a turn."""
    n = len(samples)
    mean_x, mean_y = (sum(values) / n for values in zip(*samples, strict=True))
    above = sum((x - mean_x) * (y - mean_y) for x, y in samples)
    return above / sum((x - mean_x) ** 2 for x, _ in samples)


async def memory(bench: Bench, settings: dict[str, str], short: int, long: int) -> int:
    """Return how many turns did not end, or failed."""
    print(
        f"\nmemory ({short} turns of three tokens, then {long} of 500, each on a thread of its own,"
        " in through Kafka)",
        flush=True,
    )
    left = 0
    async with backend(settings) as log:
        for name, text, count in (("short", SHORT, short), ("long", LONG, long)):
            if count:
                left += await _turns(bench, log, name, text, count)
        left += log.failed
    ports = {"worker": int(settings["TURNSTREAM_WORKER_HEALTH_PORT"]), "edge": bench.edge_port}
    for name, port in ports.items():
        pause = 1e3 * metric(port, "turnstream_gc_pause_longest_seconds")
        line(f"{name}: longest garbage collection (ms)", f"{pause:.1f}", "-", "20",
             judge(pause, None, 20))  # fmt: skip
    with psycopg.connect(settings["TURNSTREAM_DATABASE_URL"]) as connection:
        size = connection.execute("SELECT pg_database_size(current_database())").fetchone()[0]
    print(f"    the database has {size >> 20} MiB")
    return left


async def _turns(bench: Bench, log: Backend, kind: str, text: str, count: int) -> int:
    """Run so many turns in waves; print a line now and then, and the slopes."""
    samples: dict[str, list[tuple[int, int]]] = {"worker": [], "edge": []}
    wave = max(1, min(WAVE_MAX, count // SAMPLES))
    left, done, began, said = 0, 0, time.monotonic(), time.monotonic()
    while done < count:
        now = min(wave, count - done)
        for _ in range(now):
            await log.send(str(uuid.uuid4()), text)
        left += await log.all_ended(300)
        done += now
        for name, seen in samples.items():
            seen.append((done, rss_kib(bench.pids[name])))
        log.sent.clear(), log.ended.clear()
        if time.monotonic() - said > 10:
            said = time.monotonic()
            rate = done / (said - began)
            held = ", ".join(f"{name} {seen[-1][1] >> 10} MiB" for name, seen in samples.items())
            left_s = (count - done) / rate
            print(
                f"    {done} {kind} turns, {rate:.0f}/s, {held}, {left_s:.0f} s to go", flush=True
            )
    for name, seen in samples.items():
        warm = seen[int(len(seen) * WARM_SHARE) :]
        grows = slope(warm) * 1000
        spread = " ".join(f"{kib / 1024:.0f}" for _, kib in seen[:: max(1, len(seen) // 8)])
        what = f"{name}, {kind} turns: RSS slope after warm-up, KiB per 1,000 turns (MiB: {spread})"
        line(what, f"{grows:.0f}", "-", "100", judge(max(0.0, grows), None, 100))
    return left
