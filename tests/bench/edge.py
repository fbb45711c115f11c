"""CPU of the edge for each delivered frame: `python -m tests.bench.edge` (or run the file).

An edge in a process of its own, real Kafka, `--threads` threads with `--watchers` WebSockets each,
of the agent protocol or of plain events (`--surface`); records are appended at `--rate` a second
and thread in rounds 5 ms apart, as a worker's pump does.
Needs TURNSTREAM_TEST_KAFKA and TURNSTREAM_TEST_DATABASE. Prints one line a run.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import subprocess
import sys
import time
import uuid
from urllib.parse import urlsplit, urlunsplit

import httpx
import psutil
import psycopg
import uvloop
from aiokafka import AIOKafkaProducer

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.postgres.migrate import migrate
from turnstream.schemas.records import events as ev
from turnstream.schemas.topics import Topics

PARTITIONS = 12
TICK_S = 0.005
DELTAS = {"protocol": b'"content-block-delta"', "plain": b'"type":"token"'}


class Watcher(asyncio.Protocol):
    """A WebSocket that counts deltas; it never answers pings (a run is shorter than their time)."""

    def __init__(self, thread: str, surface: str) -> None:
        self.thread = thread
        self.plain = surface == "plain"
        self.delta = DELTAS[surface]
        self.count = 0
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport) -> None:
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {'/ws' if self.plain else f'/threads/{self.thread}/stream/events'} HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        transport.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    def subscribe(self) -> None:
        command = {"channels": ["messages", "lifecycle"]}
        frame = {"id": 1, "method": "subscription.subscribe", "params": command}
        if self.plain:
            frame = {"id": 1, "type": "subscribe", "thread_id": self.thread}
        body = json.dumps(frame).encode()
        self.transport.write(b"\x81" + bytes((0x80 | len(body),)) + bytes(4) + body)

    def data_received(self, data: bytes) -> None:
        self.count += data.count(self.delta)
        if data.startswith(b"HTTP/1.1 101"):
            self.subscribe()
        if not self.ready.done() and (b"subscription_id" in data or b'"ok"' in data):
            self.ready.set_result(None)


def record(key: str, n: int, event_type=ev.TokensEmitted, /, **fields):
    return event_type(
        event_id=f"{key}-1-{n}", tenant="default", thread_id=key, turn_id=key, epoch=1 << 40 | 1,
        n=n, path="t1", at=time.time_ns() // 1000, **fields,
    )  # fmt: skip


async def produce(producer, topic, codec, keys, rate, seconds):
    """Append one token record a thread at `rate` a second, in rounds of a tick."""
    loop = asyncio.get_running_loop()
    begin, sent, n = loop.time(), 0, dict.fromkeys(keys, 0)
    while (at := loop.time() - begin) < seconds:
        due = int(at * rate * len(keys))
        batches = {}
        for number in range(sent, due):
            key = keys[number % len(keys)]
            n[key] += 1
            fields = {"message_id": "m", "block": 0, "kind": "text", "text": "token "}
            value = codec.encode(record(key, n[key], **fields))
            partition = keys.index(key) % PARTITIONS
            batch = batches.setdefault(partition, producer.create_batch())
            batch.append(key=f"default/{key}".encode(), value=value, timestamp=None)
        sent = max(sent, due)
        for partition, batch in batches.items():
            await producer.send_batch(batch, topic, partition=partition)
        await asyncio.sleep(TICK_S)
    return sent


async def bench(args, database: str) -> None:
    prefix = f"bench{uuid.uuid4().hex[:8]}-"
    topics, kafka = Topics(prefix), os.environ["TURNSTREAM_TEST_KAFKA"]
    await asyncio.to_thread(migrate, database)
    async with TopicAdmin(kafka) as admin:
        await admin.create(topics.all(("default",), PARTITIONS))
    environment = os.environ | {
        "TURNSTREAM_KAFKA_BOOTSTRAP": kafka,
        "TURNSTREAM_TOPIC_PREFIX": prefix,
        "TURNSTREAM_DATABASE_URL": database,
        "TURNSTREAM_EDGE_SOCKETS_PER_USER_MAX": "100000",
        "TURNSTREAM_EDGE_REQUESTS_PER_S_MAX": "100000",
    }
    command = [sys.executable, "-m", "turnstream.streams.cli", "edge", "--port", str(args.port)]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True, linger_ms=0)
    try:
        url = f"http://127.0.0.1:{args.port}"
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            await ready(client, child)
            await producer.start()
            keys = [f"t{number}" for number in range(args.threads)]
            for key in keys:
                await client.post("/threads", json={"thread_id": key})
            watchers = await connect(args, keys)
            codec = Codec()
            fields = {"reason": "first", "base": 0, "keep_n": 0, "high_n": 0}
            for number, key in enumerate(keys):
                start = codec.encode(record(key, 0, ev.AttemptStarted, **fields))
                partition = number % PARTITIONS
                await producer.send_and_wait(
                    topics.events, start, key=f"default/{key}".encode(), partition=partition
                )
            await produce(producer, topics.events, codec, keys, args.rate, 0)
            edge = psutil.Process(child.pid)
            cpu, count, begin = spent(edge), sum(w.count for w in watchers), time.monotonic()
            records = await produce(producer, topics.events, codec, keys, args.rate, args.seconds)
            await asyncio.sleep(0.5)
            cpu, took = spent(edge) - cpu, time.monotonic() - begin
            frames = sum(w.count for w in watchers) - count
        print(
            f"{len(watchers)} {args.surface} sockets on {args.threads} threads, {records} records:"
            f" {frames} frames"
            f" of {records * args.watchers} due, {frames / took:,.0f}/s,"
            f" edge CPU {cpu / took:.0%}, {cpu / max(frames, 1) * 1e6:.2f} µs a frame"
        )
    finally:
        await producer.stop()
        child.terminate()
        child.wait(20)


async def ready(client, child) -> None:
    async with asyncio.timeout(30):
        while child.poll() is None:
            try:
                if (await client.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError("the edge did not start")


async def connect(args, keys) -> list[Watcher]:
    loop, watchers = asyncio.get_running_loop(), []
    for key in keys:
        for _ in range(args.watchers):
            _, made = await loop.create_connection(
                lambda key=key: Watcher(key, args.surface), "127.0.0.1", args.port
            )
            watchers.append(made)
    async with asyncio.timeout(60):
        await asyncio.gather(*(w.ready for w in watchers))
    return watchers


def spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=20)
    parser.add_argument("--watchers", type=int, default=25)
    parser.add_argument("--rate", type=float, default=25.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--port", type=int, default=18123)
    parser.add_argument("--surface", choices=sorted(DELTAS), default="protocol")
    args = parser.parse_args()
    server = os.environ["TURNSTREAM_TEST_DATABASE"]
    name = f"bench{uuid.uuid4().hex[:10]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(bench(args, urlunsplit(urlsplit(server)._replace(path=f"/{name}"))))
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


if __name__ == "__main__":
    main()
