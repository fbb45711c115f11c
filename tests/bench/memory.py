"""The table "memory": RSS of worker and edge over many short turns, and the longest pause."""

from __future__ import annotations

import re
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.burst import backend
from tests.bench.rows import judge, line

if TYPE_CHECKING:
    from tests.bench.stacks import Bench

SAMPLES = 20
WARM_SHARE = 0.4
"""Of the turns: pools, caches and rings fill meanwhile."""


def rss_kib(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def longest_pause_ms(port: int) -> float:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found = re.search(r"\nturnstream_gc_pause_longest_seconds (\S+)", text)
    return 1e3 * float(found[1])


def slope(samples: list[tuple[int, int]]) -> float:
    """Least squares: KiB a turn."""
    n = len(samples)
    mean_x, mean_y = (sum(values) / n for values in zip(*samples, strict=True))
    above = sum((x - mean_x) * (y - mean_y) for x, y in samples)
    return above / sum((x - mean_x) ** 2 for x, _ in samples)


async def memory(bench: Bench, settings: dict[str, str], count: int) -> int:
    """Return how many turns did not end."""
    print(f"\nmemory ({count} turns of three tokens on as many threads, in through Kafka)")
    samples: dict[str, list[tuple[int, int]]] = {"worker": [], "edge": []}
    left, step = 0, max(1, count // SAMPLES)
    async with backend(settings) as log:
        for done in range(step, count + 1, step):
            for _ in range(step):
                await log.send(str(uuid.uuid4()), "tokens=3 rate=0 ttft=0")
            left += await log.all_ended(300)
            for name, seen in samples.items():
                seen.append((done, rss_kib(bench.pids[name])))
            log.sent.clear(), log.ended.clear()
    ports = {"worker": int(settings["TURNSTREAM_WORKER_HEALTH_PORT"]), "edge": bench.edge_port}
    for name, seen in samples.items():
        warm = seen[int(len(seen) * WARM_SHARE) :]
        grows = slope(warm) * 1000
        spread = " ".join(f"{kib / 1024:.0f}" for _, kib in seen[:: max(1, len(seen) // 8)])
        line(f"{name}: RSS slope after warm-up, KiB per 1,000 turns (MiB: {spread})",
             f"{grows:.0f}", "-", "100", judge(max(0.0, grows), None, 100))  # fmt: skip
        pause = longest_pause_ms(ports[name])
        line(f"{name}: longest garbage collection (ms)", f"{pause:.1f}", "-", "20",
             judge(pause, None, 20))  # fmt: skip
    return left + log.failed
