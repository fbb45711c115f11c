"""The table "starved": two workers beside neighbours that burn the cores."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import psycopg

from tests.bench.load import Published, run
from tests.bench.machine import percentiles
from tests.bench.rows import ms
from tests.bench.scrape import Watching
from tests.bench.stacks import _ready
from turnstream.deploy.local.machine import Ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.bench.stacks import Bench

SECOND_LOG = "second.log"
LOST = ('"lease_lost"', '"peer_dead"', '"worker_replaced"')


@contextmanager
def burning(processes: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(processes):
            burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(burner.wait)
            stack.callback(burner.kill)
        yield


async def found_frozen(database: str, worker: subprocess.Popen[bytes]) -> float:
    """Freeze a worker that runs turns; return after how long it holds no thread any more."""
    for _ in range(40):
        thread = str(uuid.uuid4())
        body = {"thread_id": thread, "text": "tokens=2000 rate=20 ttft=0"}
        key = f"default/{thread}".encode()
        await Published.log.send(Published.topic, json.dumps(body).encode(), key=key)
    with psycopg.connect(database, autocommit=True) as connection:
        query = "SELECT worker FROM workers WHERE name LIKE %s"
        worker_id = connection.execute(query, (f"%-{worker.pid}",)).fetchone()[0]

        async def until(held: bool) -> None:
            owned = "SELECT EXISTS (SELECT FROM threads WHERE owner = %s)"
            while connection.execute(owned, (worker_id,)).fetchone()[0] != held:
                await asyncio.sleep(0.05)

        async with asyncio.timeout(60):
            await until(held=True)
            worker.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            await until(held=False)
            return time.monotonic() - began


@asynccontextmanager
async def second_worker(bench: Bench) -> AsyncIterator[subprocess.Popen[bytes]]:
    port = Ports().take()
    env = bench.settings | {"TURNSTREAM_WORKER_HEALTH_PORT": str(port)}
    path = bench.logs / SECOND_LOG
    with path.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "turnstream.streams.cli", "worker"],
            env=env, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        await _ready("second worker", f"http://127.0.0.1:{port}/readyz", worker, path)
        yield worker
    finally:
        worker.send_signal(signal.SIGCONT)
        worker.terminate()
        worker.wait(60)


def begun_anew(bench: Bench) -> tuple[int, int]:
    """Return how many leases were lost, and how many turns began more than once."""
    logs = "".join((bench.logs / name).read_text() for name in ("worker.log", SECOND_LOG))
    with psycopg.connect(bench.settings["TURNSTREAM_DATABASE_URL"]) as connection:
        query = "SELECT count(*) FROM turns WHERE attempts > 1"
        again = connection.execute(query).fetchone()[0]
    return sum(logs.count(word) for word in LOST), again


async def starved(bench: Bench, *, streams: int, burners: int, seconds: float, limit: str) -> int:
    """Print one row; returns leases lost, turns that began anew, and streams that failed."""
    watching = Watching(bench)
    async with second_worker(bench) as second:
        with burning(burners):
            async with watching.going():
                row = await run(
                    Published, bench.edge_port, bench.pids | {"second worker": second.pid},
                    streams=streams, text="tokens=100 rate=50 ttft=0.2 stamp=1", ttft_s=0.2,
                    seconds=seconds, turn_timeout_s=600,
                )  # fmt: skip
            lost, again = begun_anew(bench)
            found_s = await found_frozen(bench.settings["TURNSTREAM_DATABASE_URL"], second)
    print(
        f"  {streams} streams, {burners} burners, {limit}: {row.tokens / row.usage.wall_s:.0f}"
        f" tok/s, {row.turns} turns began; leases lost {lost}, turns begun anew {again}, errors"
        f" {len(row.errors)}; a worker that was frozen then lost its threads after {found_s:.1f} s"
    )
    for what, values in (
        ("gap between tokens", row.gaps),
        ("added per token", row.latencies),
        ("to the first token", row.first),
    ):
        p50, p99 = (1e3 * value for value in percentiles(values, 0.5, 0.99))
        print(f"    {what} p50 / p99 {ms(p50)} / {ms(p99)} ms")
    print(f"    of one of the workers: {watching.said()}")
    usage = row.usage
    others = f"{usage.others_share:.0%} of the machine"
    print(f"    cores: {usage.said()}; others, burners among them, {others}", flush=True)
    return lost + again + len(row.errors)
