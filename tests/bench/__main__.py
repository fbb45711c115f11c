"""Print the bench's tables, with the in-process template in the same run.

`python -m tests.bench [--seconds S] [--turns N] [--only TABLE] [--profile]`, TABLE one of idle,
token-path, brought, turns, capacity, and, with processes of their own, memory, overload, starved,
halves, parts.
`--only overload --seconds 60` takes as long again as it takes to serve what was sent: with half of
it through Kafka some five minutes. `TMPDIR=/dev/shm` keeps the servers' data in memory.
Ratios against the template hold on any machine; absolute figures are this machine's, and the share
that others used of it is printed beside. The bare path (`bare.py`), which keeps nothing, is
measured in the same run: it depends on the machine as ours does. No row fails because the machine
was slow: each prints its floor, its aim and the distance. Exits with 1 where a stream or a turn
failed.

Uses TURNSTREAM_TEST_KAFKA and TURNSTREAM_TEST_DATABASE if both are set, else starts its own. What
others do with the same broker meanwhile shows in the latencies. Turns of the token path come in
through Kafka, as those did that the floors were measured with; a row says what starting them over
HTTP adds.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer

from tests.bench.capacity import capacity
from tests.bench.halves import halves
from tests.bench.load import Bare, Brought, Measured, Ours, Published, Theirs, run
from tests.bench.machine import Meter, percentiles
from tests.bench.memory import memory
from tests.bench.overload import OPEN_TURNS_MAX, overload
from tests.bench.parts import parts
from tests.bench.rows import judge, line, ms
from tests.bench.stacks import Bench, running
from tests.bench.starved import starved
from tests.bench.turns import turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PACED = "tokens=100 rate=50 ttft=0.2 stamp=1"
ALONE = ("memory", "overload", "starved", "halves", "parts")
TABLES = ("idle", "token-path", "brought", "turns", "capacity", *ALONE)
FLAT = "tokens=400 rate=0 ttft=0 stamp=1"


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

    async def bare(self, streams: int) -> Measured:
        bench = self.bench
        return await run(
            Bare, bench.bare_port, bench.bare_pids,
            streams=streams, text=PACED, ttft_s=0.2, seconds=self.seconds,
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
        await self.against_bare(row)
        row = await self.ours(200, PACED, kind=Published)
        self.cpu(row, 86, 60)
        await self.against_bare(row)
        await self.started_over_http()
        await self.against_template("paced 40 streams", PACED, 0.2, 6, 10)
        await self.against_template("flat out", FLAT, 0.0, 25, 40)

    async def against_bare(self, mine: Measured) -> None:
        """What the same path costs that keeps nothing: the rest is the price of keeping a turn."""
        base = await self.bare(mine.streams)
        a = mine.cpu_us_per_token("worker", "edge")
        b = base.cpu_us_per_token("bare worker", "bare edge")
        print(f"  CPU per token, ours / bare path: {a / b:.2f}x ({a:.0f} / {b:.0f} us)")
        added = [1e3 * value for value in percentiles(base.latencies, 0.5, 0.99)]
        first = [1e3 * value for value in percentiles(base.first, 0.5, 0.99)]
        print(
            f"    bare: {base.tokens / base.usage.wall_s:.0f} tok/s, latency p50 / p99"
            " {} / {} ms, to the first token {} / {} ms".format(*map(ms, added + first))
        )
        self.below(base)

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


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    parser.add_argument("--turns", type=int, default=3000, help="of the table of turns")
    parser.add_argument("--only", choices=TABLES)
    parser.add_argument(
        "--profile", action="store_true", help="where worker and edge spend it; costs a tenth"
    )
    parser.add_argument("--streams", type=int, default=500, help="of the table starved")
    parser.add_argument("--burners", type=int, default=5, help="of the table starved")
    parser.add_argument(
        "--kafka-share", type=float, default=0.5, help="of the load of the table overload, 0 to 1"
    )
    parser.add_argument("--memory-turns", type=int, default=20_000, help="of the table memory")
    parser.add_argument(
        "--memory-long", type=int, default=500, help="turns of 500 tokens, of the table memory"
    )
    parser.add_argument("--halves", type=int, default=20_000, help="connections of that table")
    options = parser.parse_args()
    wanted = {options.only} if options.only else set(TABLES)
    failed = await shared(options, wanted) if wanted - set(ALONE) else 0
    failed += await alone(options, wanted)
    if failed:
        print(f"\n{failed} streams or turns failed")
    return 1 if failed else 0


async def alone(options: argparse.Namespace, wanted: set[str]) -> int:
    """Print the tables that need processes with settings of their own."""
    failed = 0
    if "memory" in wanted:
        # with a small ring: it fills as it should, which is no leak
        async with running({"TURNSTREAM_RING_BYTES_MAX": str(2 << 20)}, compared=False) as bench:
            failed += await memory(bench, bench.settings, options.memory_turns, options.memory_long)
    if "overload" in wanted:
        limits = {"TURNSTREAM_OPEN_TURNS_MAX": str(OPEN_TURNS_MAX)}
        async with (
            running(limits, sample=options.profile, compared=False) as bench,
            publishing(bench),
        ):
            failed += await overload(bench, bench.settings, options.seconds, options.kafka_share)
    if "starved" in wanted:
        print(f"\nstarved ({options.seconds:.0f} s a row, two workers)", flush=True)
        for limits in ({"TURNSTREAM_LOOP_LAG_TARGET_MS": "0"}, {}):
            async with running(limits, compared=False) as bench, publishing(bench):
                failed += await starved(
                    bench, streams=options.streams, burners=options.burners,
                    seconds=options.seconds,
                    limit="claims ignore the lag" if limits else "claims follow the lag",
                )  # fmt: skip
    if "halves" in wanted:
        async with running({}, compared=False) as bench:
            failed += await halves(bench, options.halves, options.seconds)
    if "parts" in wanted:
        await parts()
    return failed


@asynccontextmanager
async def publishing(bench: Bench) -> AsyncIterator[None]:
    """Let `Published` send turns through Kafka."""
    Published.topic = f"{bench.settings['TURNSTREAM_TOPIC_PREFIX']}turns.default"
    Published.log = AIOKafkaProducer(bootstrap_servers=bench.settings["TURNSTREAM_KAFKA_BOOTSTRAP"])
    await Published.log.start()
    try:
        yield
    finally:
        await Published.log.stop()


async def shared(options: argparse.Namespace, wanted: set[str]) -> int:
    """Print the tables that are measured against the same processes."""
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(running({}, sample=options.profile))
        table = Table(bench, options.seconds)
        await stack.enter_async_context(publishing(bench))
        Bare.topic = f"{bench.settings['TURNSTREAM_TOPIC_PREFIX']}bare-turns"
        if "idle" in wanted:
            await table.idle()
        if wanted & {"token-path", "brought", "capacity"}:  # warm, before the clock
            await run(
                Ours, bench.edge_port, bench.pids,
                streams=20, text=PACED, ttft_s=0.2, seconds=2,
            )  # fmt: skip
            await run(
                Bare, bench.bare_port, bench.bare_pids,
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
        if "capacity" in wanted:
            table.failed += await capacity(bench, options.seconds)
        return table.failed


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
