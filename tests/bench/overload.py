"""The table "overload": far more turns than can be served, through Kafka and HTTP at once."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING

import aiohttp

from tests.bench.burst import backend
from tests.bench.load import Published, run
from tests.bench.machine import percentiles
from tests.bench.rows import judge, line, ms

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.bench.burst import Backend
    from tests.bench.stacks import Bench

OPEN_TURNS_MAX = 300
THREADS = 200
SHORT = "tokens=20 rate=0 ttft=0"
WATCHED = 10
CONNECTIONS = 400
NO_ANSWER = 0
HEAD_START_S = 3.0
"""Of the watched turns."""


class Asking:
    """Starts turns over HTTP at a fixed rate and notes what each answer said and took."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.status: Counter[int] = Counter()
        self.refused_s: list[float] = []
        self.without_retry = 0
        self.gate = asyncio.Semaphore(CONNECTIONS)

    async def one(self, http: aiohttp.ClientSession) -> int:
        body = {
            "assistant_id": "agent",
            "input": {"messages": [{"role": "user", "content": SHORT}]},
            "if_not_exists": "create",
        }
        url = f"{self.url}/threads/{uuid.uuid4()}/runs"
        await self.gate.acquire()  # the wait for a connection of ours is not the edge's
        began = time.monotonic()
        try:
            async with http.post(url, json=body) as answer:
                await answer.read()
                status = answer.status
                if status == 503:
                    self.refused_s.append(time.monotonic() - began)
                    self.without_retry += "Retry-After" not in answer.headers
        except aiohttp.ClientError:
            status = NO_ANSWER
        finally:
            self.gate.release()
        self.status[status] += 1
        return status

    async def at(self, rate: float, seconds: float) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as http:
            began, asked = time.monotonic(), []
            while (elapsed := time.monotonic() - began) < seconds:
                due = int(elapsed * rate) - len(asked)
                asked += [asyncio.create_task(self.one(http)) for _ in range(due)]
                await asyncio.sleep(0.02)
            await asyncio.gather(*asked)

    async def taken_again(self, timeout_s: float) -> float:
        """Return after how long a turn is accepted."""
        began = time.monotonic()
        async with aiohttp.ClientSession() as http:
            while await self.one(http) == 503 and time.monotonic() - began < timeout_s:
                await asyncio.sleep(0.2)
        return time.monotonic() - began


async def _later(work: Awaitable[None]) -> None:
    await asyncio.sleep(HEAD_START_S)
    await work


async def _publish(log: Backend, rate: float, seconds: float) -> None:
    began, sent = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < seconds:
        while sent < elapsed * rate:
            await log.send(f"over-{sent % THREADS}", SHORT)
            sent += 1
        await log.read(20)


async def overload(bench: Bench, settings: dict[str, str], seconds: float) -> int:
    """Return what went wrong: turns lost, failed or out of order, answers without Retry-After."""
    async with backend(settings) as log:
        for i in range(200):  # what can be served
            await log.send(f"before-{i}", SHORT)
        began = time.monotonic()
        left = await log.all_ended(120)
        served = 200 / (time.monotonic() - began)
        rate = 10 * served
        print(
            f"\noverload ({served:.0f} turns/s can be served; {rate / 2:.0f}/s through Kafka and"
            f" {rate / 2:.0f}/s over HTTP for {seconds:.0f} s; {OPEN_TURNS_MAX} may be open)"
        )
        # the watched turns begin before it, and last longer
        text = f"tokens={round(20 * (seconds + 20))} rate=20 ttft=0.2 stamp=1"
        watch = {"streams": WATCHED, "text": text, "ttft_s": 0.2, "turn_timeout_s": 600}
        calm = await run(Published, bench.edge_port, bench.pids, seconds=5, **watch)
        asking = Asking(bench.edge_port)
        busy, _, _ = await asyncio.gather(
            run(Published, bench.edge_port, bench.pids, seconds=seconds, **watch),
            _later(_publish(log, rate / 2, seconds)),
            _later(asking.at(rate / 2, seconds)),
        )
        again_s = await asking.taken_again(300)
        left += await log.all_ended(600)
        wrong = left + log.failed + log.out_of_order + asking.without_retry
        wrong += sum(n for status, n in asking.status.items() if status not in (200, 503))
        (p99,) = percentiles(asking.refused_s, 0.99)
        name = f"503 with Retry-After, p99 of {len(asking.refused_s)} (ms)"
        line(name, ms(p99 * 1e3), "-", "100", judge(p99 * 1e3, None, 100))
        for name, row in (("before", calm), ("meanwhile", busy)):
            p50, p99 = (1e3 * value for value in percentiles(row.latencies, 0.5, 0.99))
            print(f"  running turns {name}: added per token p50 / p99 {ms(p50)} / {ms(p99)} ms")
        print(
            f"  answers {dict(asking.status)}; accepted again after {again_s:.1f} s; Kafka turns:"
            f" {sum(map(len, log.sent.values()))} sent, {left} left, {log.failed} failed,"
            f" {log.out_of_order} threads out of order"
        )
        return wrong
