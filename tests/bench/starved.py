"""The table "starved": two workers beside neighbours that burn the cores."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psycopg

from tests.bench.load import Published, run
from tests.bench.machine import percentiles
from tests.bench.rows import ms
from tests.bench.stacks import _ready
from turnstream.deploy.local.machine import Ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.stacks import Bench

LOST = ('"lease_lost"', '"peer_dead"', '"worker_replaced"')


@contextmanager
def burning(processes: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(processes):
            burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(burner.wait)
            stack.callback(burner.kill)
        yield


async def starved(
    bench: Bench, *, streams: int, burners: int, seconds: float, limited: bool
) -> int:
    """Print one row; returns leases lost and turns that began anew."""
    port = Ports().take()
    env = bench.settings | {"TURNSTREAM_WORKER_HEALTH_PORT": str(port)}
    path = bench.logs / "second.log"
    with path.open("wb") as out:
        second = subprocess.Popen(
            [sys.executable, "-m", "turnstream.streams.cli", "worker"],
            env=env, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        await _ready("second worker", f"http://127.0.0.1:{port}/readyz", second, path)
        with burning(burners):
            row = await run(
                Published, bench.edge_port, bench.pids | {"second worker": second.pid},
                streams=streams, text="tokens=100 rate=50 ttft=0.2 stamp=1", ttft_s=0.2,
                seconds=seconds, turn_timeout_s=600,
            )  # fmt: skip
        logs = path.read_text() + (bench.logs / "worker.log").read_text()
        lost = sum(logs.count(word) for word in LOST)
        with psycopg.connect(env["TURNSTREAM_DATABASE_URL"]) as connection:
            query = "SELECT count(*) FROM turns WHERE attempts > 1"
            again = connection.execute(query).fetchone()[0]
    finally:
        second.terminate()
        second.wait(60)
    p50, p99 = (1e3 * value for value in percentiles(row.latencies, 0.5, 0.99))
    print(
        f"  {streams} streams, {burners} burners, claims {'follow' if limited else 'ignore'} the"
        f" lag: added per token p50 / p99 {ms(p50)} / {ms(p99)} ms,"
        f" {row.tokens / row.usage.wall_s:.0f} tok/s, {row.turns} turns began;"
        f" leases lost {lost}, turns begun anew {again}, errors {len(row.errors)}"
    )
    print(f"    others {row.usage.others_share:.0%} of the machine (burners among them)")
    return lost + again + len(row.errors)
