"""LangGraph runs/s with our saver against the stock one, in the same run.

    python tests/bench/saver.py --database postgresql://… [--runs 600] [--flight 24] [--rounds 3]

Each run is a one-node graph on a new thread, durability "sync". Rows: the stock saver, ours with a
session (fence, keep, outcome in the last transaction), the same with 3 ms until the log
acknowledges, the same without the first load (a thread that the claim knows to be new), and a saver
that does nothing, which is LangGraph's own share. The rounds take turns,
so that a busy neighbour hits all rows.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import statistics
import time
import uuid
from typing import Any, TypedDict
from urllib.parse import urlsplit, urlunsplit

import psycopg
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from tests.connectors.postgres.run_facts import LastBy
from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.postgres.checkpoints.commit_pool import CommitPool, commit_pool
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
from turnstream.connectors.postgres.migrate import migrate
from turnstream.graph.langgraph.last_checkpoint import ends_after
from turnstream.schemas.records.results import Outcome

FLOOR = 2.5


class State(TypedDict):
    messages: list[str]
    count: int


async def node(state: State) -> dict[str, Any]:
    return {"messages": [*state["messages"], "answer"], "count": 1}


class Nothing(BaseCheckpointSaver[str]):
    async def aget_tuple(self, config: Any) -> None:
        return None

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        return config

    async def aput_writes(self, *_: Any) -> None:
        return None


class SlowLog(MemoryEmitter):
    async def acked(self, n: int) -> None:
        await asyncio.sleep(0.003)


def build(saver: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(checkpointer=saver)


async def insert_threads(pool: Any, turns: list[tuple[str, uuid.UUID]]) -> None:
    keys = [key for key, _ in turns]
    async with pool.connection() as connection:
        await connection.execute(
            "INSERT INTO threads (thread_key, partition, epoch)"
            " SELECT k, 0, (timeline() << 40) + 1 FROM unnest(%s::text[]) k",
            (keys,),
        )
        await connection.execute(
            "INSERT INTO turns (tenant, turn_id, thread_key, kind, graph, origin, actor, policy,"
            " src_topic, src_part, src_off, body_sha, body)"
            " SELECT 'default', t, k, 'start', 'g', t, '', 'enqueue', 'turns', 0, 0, '', ''"
            " FROM unnest(%s::text[], %s::uuid[]) AS x(k, t)",
            (keys, [turn for _, turn in turns]),
        )


async def measure(name: str, pool: Any, saver: Any, runs: int, flight: int) -> tuple[float, float]:
    graph = build(saver)
    turns = [(f"default/{uuid.uuid4()}", uuid.uuid4()) for _ in range(runs)]
    epoch = 0
    if name.startswith("ours"):
        await insert_threads(pool, turns)
        async with pool.connection() as connection:
            cursor = await connection.execute("SELECT (timeline() << 40) + 1 AS epoch")
            epoch = (await cursor.fetchone())["epoch"]
    last = ends_after(graph)
    waiting = iter(turns)

    async def one(key: str, turn_id: uuid.UUID) -> None:
        config = {
            "configurable": {"thread_id": key},
            "metadata": {"run_id": str(turn_id), "turn_id": str(turn_id)},
        }
        call = {"messages": ["hello"], "count": 0}

        async def run() -> None:
            async for _ in graph.astream(
                call, config, stream_mode=[], durability="sync", version="v2"
            ):
                pass

        if not name.startswith("ours"):
            await run()
            return
        log = SlowLog() if "3 ms" in name else MemoryEmitter()
        session = saver.session(thread_key=key, turn_id=turn_id, epoch=epoch, log=log)
        session.follow(LastBy(last))
        with session.bound():
            await run()
            await session.commit_outcome(Outcome(status="completed"))

    async def lane() -> None:
        for key, turn_id in waiting:
            await one(key, turn_id)

    gc.collect()
    cpu, start = time.process_time(), time.perf_counter()
    await asyncio.gather(*(asyncio.ensure_future(lane()) for _ in range(flight)))
    took = time.perf_counter() - start
    return runs / took, (time.process_time() - cpu) / runs * 1e3


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", required=True, help="URL; a database is made and dropped")
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--flight", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    name = f"bench{uuid.uuid4().hex[:8]}"
    with psycopg.connect(options.database, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    dsn = urlunsplit(urlsplit(options.database)._replace(path=f"/{name}"))
    try:
        await asyncio.to_thread(migrate, dsn)
        async with (
            AsyncConnectionPool(
                dsn,
                min_size=8,
                max_size=8,
                kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
                open=False,
            ) as pool,
            commit_pool(dsn) as commits,
        ):
            await table(pool, commits, options)
    finally:
        with psycopg.connect(options.database, autocommit=True) as admin:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def table(pool: Any, commits: CommitPool, options: argparse.Namespace) -> None:
    rows = {
        "stock AsyncPostgresSaver": AsyncPostgresSaver(pool),
        "ours, with session": FencedSaver(pool, commits),
        "ours, acks after 3 ms": FencedSaver(pool, commits),
        "ours, known new thread": FencedSaver(pool, commits),
        "a saver that does nothing": Nothing(),
    }
    rates: dict[str, list[float]] = {row: [] for row in rows}
    cpu: dict[str, list[float]] = {row: [] for row in rows}
    for row, saver in rows.items():
        await measure(row, pool, saver, options.flight * 4, options.flight)
    gc.freeze()
    for _ in range(options.rounds):
        for row, saver in rows.items():
            rate, spent = await measure(row, pool, saver, options.runs, options.flight)
            rates[row].append(rate)
            cpu[row].append(spent)
    stock = statistics.median(rates["stock AsyncPostgresSaver"])
    print(f"one-node graph, {options.flight} in flight, {options.rounds} rounds of {options.runs}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, ", end="")
    print(f"RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    print(f"{'saver':28}{'runs/s':>9}{'min':>8}{'max':>8}{'x stock':>9}{'CPU ms':>8}")
    for row, values in rates.items():
        middle = statistics.median(values)
        print(
            f"{row:28}{middle:9.0f}{min(values):8.0f}{max(values):8.0f}"
            f"{middle / stock:9.2f}{statistics.median(cpu[row]):8.2f}"
        )
    ratio = statistics.median(rates["ours, with session"]) / stock
    print(f"floor {FLOOR}x: {'passed' if ratio >= FLOOR else 'MISSED'} ({ratio:.2f}x), aim 4x")


if __name__ == "__main__":
    asyncio.run(main())
