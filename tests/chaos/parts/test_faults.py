"""That each fault really strikes, seen by plain clients in the place of a stage's processes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from pydantic import SecretStr

from tests.chaos.faults import FAULTS
from tests.chaos.parts import link_faults, model_faults, server_faults, topic_faults  # noqa: F401
from tests.chaos.parts.servers import LinkedServers, open_servers
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.postgres.migrate import migrate
from turnstream.deploy.local.scripted.server import ScriptedServer
from turnstream.streams.app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises where a server is gone or cut off."""


@dataclass
class Client:
    """Stands where a worker or an edge stands: at the far end of its links."""

    name: str


@dataclass
class Ground:
    """What a fault sees of a stage, with clients in place of processes."""

    servers: LinkedServers
    settings: Settings
    name: str = "stage"
    random: random.Random = field(default_factory=lambda: random.Random(1))
    workers: list[Client] = field(default_factory=lambda: [Client("w1")])
    edges: list[Client] = field(default_factory=lambda: [Client("e1")])

    async def busy_worker(self) -> Client:
        return self.workers[0]

    def database_of(self, name: str) -> str:
        return f"{self.servers.database_for(f'{self.name}/{name}')}?sslmode=disable"

    async def session(self, name: str) -> asyncpg.Connection:
        return await asyncpg.connect(self.database_of(name), timeout=60)

    @contextlib.asynccontextmanager
    async def producer(self, name: str = "") -> AsyncIterator[AIOKafkaProducer]:
        servers = self.servers
        address = servers.kafka_for(f"{self.name}/{name}") if name else servers.kafka
        made = AIOKafkaProducer(
            bootstrap_servers=address,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=3_000,  # a frozen broker answers nothing for as long
            retry_backoff_ms=50,
        )
        await made.start()
        try:
            yield made
        finally:
            await made.stop()

    @property
    def topic(self) -> str:
        return self.settings.topics.events

    async def records(self) -> list[bytes]:
        """Everything that is in the first partition of the log."""
        async with AIOKafkaConsumer(
            bootstrap_servers=self.servers.kafka, auto_offset_reset="earliest"
        ) as consumer:
            at = TopicPartition(self.topic, 0)
            consumer.assign([at])
            end = (await consumer.end_offsets([at]))[at]
            found: list[bytes] = []
            while await consumer.position(at) < end:
                batch = await consumer.getmany(timeout_ms=200)
                found += [message.value for messages in batch.values() for message in messages]
            return found


@contextlib.asynccontextmanager
async def ground(folder: Path, brokers: int) -> AsyncIterator[Ground]:
    async with open_servers(folder, brokers=brokers) as servers:
        settings = Settings(
            _env_file=None,
            kafka_bootstrap=servers.kafka,
            topic_prefix="g-",
            database_url=SecretStr(servers.database),
            partitions=1,
        )
        async with TopicAdmin(servers.kafka) as admin:
            await admin.create(settings.topics.all(settings.tenants, 1))
        yield Ground(servers, settings)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: Any, starts_servers: None) -> AsyncIterator[Ground]:
    async with ground(tmp_path_factory.mktemp("one"), 1) as made:
        await asyncio.to_thread(migrate, made.servers.database)
        yield made


@contextlib.asynccontextmanager
async def struck(name: str, ground: Ground) -> AsyncIterator[None]:
    fault = FAULTS[name]()
    try:
        await fault.strike(ground)
        yield
    finally:
        await fault.heal(ground)


async def answers(session: asyncpg.Connection, within_s: float = 60.0) -> bool:
    try:
        return await session.fetchval("SELECT 1", timeout=within_s) == 1
    except (TimeoutError, *GONE):
        return False


async def acked(producer: AIOKafkaProducer, topic: str, value: bytes, within_s: float) -> bool:
    sent = asyncio.ensure_future(producer.send_and_wait(topic, value, partition=0))
    done, _ = await asyncio.wait({sent}, timeout=within_s)
    if done:
        return sent.exception() is None
    sent.add_done_callback(lambda task: task.cancelled() or task.exception())
    return False


@pytest.mark.parametrize("who", ["worker", "edge"])
async def test_a_link_to_postgres(one: Ground, who: str) -> None:
    name = {"worker": "w1", "edge": "e1"}[who]
    beside = await one.session("w2")

    session = await one.session(name)
    async with struck(f"cut-{who}-postgres", one):
        assert not await answers(session)
        with pytest.raises(ConnectionError):
            await one.session(name)
        assert await answers(beside), "another's link is well"
    session = await one.session(name)

    async with struck(f"stall-{who}-postgres", one):
        waiting = asyncio.ensure_future(session.fetchval("SELECT 2"))
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done()
        assert await answers(beside)
    assert await waiting == 2, "a stall loses nothing"

    async with struck(f"delay-{who}-postgres", one):
        began = time.monotonic()
        assert await answers(session)
        assert time.monotonic() - began > 2 * (link_faults.DELAY_S - link_faults.JITTER_S)
    await session.close()
    await beside.close()


async def test_a_worker_that_is_deaf_to_postgres_has_committed(one: Ground) -> None:
    session, beside = await one.session("w1"), await one.session("w2")
    await beside.execute("CREATE TABLE heard (x int)")
    async with struck("deaf-worker-postgres", one):
        with pytest.raises((TimeoutError, *GONE)):
            await session.execute("INSERT INTO heard VALUES (1)", timeout=0.5)
        async with asyncio.timeout(60):
            while await beside.fetchval("SELECT count(*) FROM heard") != 1:
                await asyncio.sleep(0.01)
    assert not await answers(session, 3.0), "what was swallowed never comes"
    await beside.close()


@pytest.mark.parametrize("who", ["worker", "edge"])
async def test_a_link_to_kafka(one: Ground, who: str) -> None:
    name = {"worker": "w1", "edge": "e1"}[who]
    async with one.producer(name) as producer, one.producer("w2") as beside:
        for how in ("cut", "stall"):
            assert await acked(producer, one.topic, b"well", 60.0)
            async with struck(f"{how}-{who}-kafka", one):
                value = f"{how} {who}".encode()
                sent = asyncio.ensure_future(producer.send_and_wait(one.topic, value, partition=0))
                await asyncio.wait({sent}, timeout=0.5)
                assert not sent.done(), how
                assert await acked(beside, one.topic, b"beside", 60.0), "another's lane is well"
                assert value not in await one.records()
            await asyncio.wait_for(sent, 60.0)
            assert value in await one.records()
        async with struck(f"delay-{who}-kafka", one):
            began = time.monotonic()
            assert await acked(producer, one.topic, b"late", 60.0)
            assert time.monotonic() - began > 2 * (link_faults.DELAY_S - link_faults.JITTER_S)


async def test_a_worker_that_is_deaf_to_kafka_has_produced(one: Ground) -> None:
    async with one.producer("w1") as producer:
        assert await acked(producer, one.topic, b"well", 60.0)
        async with struck("deaf-worker-kafka", one):
            assert not await acked(producer, one.topic, b"unheard", 0.5)
            async with asyncio.timeout(60):
                while b"unheard" not in await one.records():
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("between", ["worker-model", "client-edge"])
async def test_a_link_that_carries_a_stream(one: Ground, between: str) -> None:
    """The model's, and the same that clients have to an edge; a scripted stream goes over it."""
    body = {"model": "scripted", "stream": True}
    body["messages"] = [{"role": "user", "content": "tokens=100000 rate=200"}]
    links = {"worker-model": one.servers.model_for, "client-edge": one.servers.edge_for}
    kind = {"worker-model": one.servers.models, "client-edge": one.servers.edges}[between]
    kind.clear()
    one.name = between  # a link of its own
    fresh = aiohttp.TCPConnector(force_close=True)  # none kept from before the link was cut
    async with ScriptedServer() as model, aiohttp.ClientSession(connector=fresh) as http:
        url = f"{links[between](one.name, model.url)}/chat/completions"

        async def stream() -> aiohttp.ClientResponse:
            answer = await http.post(url, json=body)
            assert answer.status == 200
            assert await answer.content.readany()
            return answer

        async def drained(answer: aiohttp.ClientResponse, silence_s: float = 60.0) -> bool:
            """Read until nothing comes for a while; return whether it was the end."""
            with contextlib.suppress(TimeoutError):
                while await asyncio.wait_for(answer.content.readany(), silence_s):
                    pass
                return True
            return False

        for how in ("end", "cut"):
            answer = await stream()
            async with struck(f"{how}-{between}", one):
                with pytest.raises(aiohttp.ClientPayloadError):
                    await drained(answer)
                if how == "cut":
                    with pytest.raises(aiohttp.ClientConnectionError):
                        await stream()
        answer = await stream()
        async with struck(f"stall-{between}", one):
            assert not await drained(answer, 0.3)
        assert await answer.content.readany(), "a stall loses nothing"
        answer.close()
        began = time.monotonic()
        async with struck(f"delay-{between}", one):
            (await stream()).close()
            assert time.monotonic() - began > 2 * (link_faults.DELAY_S - link_faults.JITTER_S)
        if between == "worker-model":
            answer = await stream()
            async with struck("model-errors", one):
                with pytest.raises(aiohttp.ClientPayloadError):
                    await drained(answer)
                async with http.post(url, json=body) as refused:
                    assert refused.status in model_faults.STATUSES
            (await stream()).close()
            async with contextlib.AsyncExitStack() as first:
                await first.enter_async_context(struck("model-errors", one))
                async with struck("model-errors", one):  # which ends after the first
                    await first.aclose()
            (await stream()).close()
    one.name = "stage"


@pytest.mark.parametrize("name", ["stop-postgres", "kill-postgres"])
async def test_postgres_restarts(one: Ground, name: str) -> None:
    session = await one.session("w1")
    await session.execute("CREATE TABLE IF NOT EXISTS kept (x text)")
    await session.execute("INSERT INTO kept VALUES ($1)", name)
    pid = one.servers.postgres.server.pid
    async with struck(name, one), asyncio.timeout(60):
        while await answers(session):  # a session outlives a killed postmaster by a moment
            await asyncio.sleep(0.01)
    assert one.servers.postgres.server.pid != pid
    session = await one.session("w1")
    assert await session.fetchval("SELECT count(*) FROM kept WHERE x = $1", name) == 1
    await session.close()


@pytest.mark.parametrize("name", ["restore-postgres", "fail-over"])
async def test_a_postgres_of_before_loses_what_a_standby_has(
    one: Ground, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(server_faults, "LOST_S", (1.0, 1.0))
    monkeypatch.setattr(server_faults, "STANDS_BY_S", (1.0, 1.0))
    session = await one.session("w1")
    await session.execute("CREATE TABLE IF NOT EXISTS told (x int)")
    await session.execute("TRUNCATE told")
    await session.execute("INSERT INTO told VALUES (0)")
    timeline = await session.fetchval("SELECT timeline()")
    committed = 0

    async def write() -> None:
        nonlocal committed
        with contextlib.suppress(*GONE):
            while True:
                await session.execute("INSERT INTO told VALUES (1)")
                committed += 1
                await asyncio.sleep(0.01)

    writing = asyncio.create_task(write())
    async with struck(name, one):
        pass
    await writing
    session = await one.session("w1")
    left = await session.fetchval("SELECT count(*) FROM told WHERE x = 1")
    if name == "fail-over":  # it may have a row more, which was not acknowledged any more
        assert left in (committed, committed + 1)
    else:
        assert left < committed, f"{left} of {committed} rows are left"
    assert await session.fetchval("SELECT count(*) FROM told WHERE x = 0") == 1
    assert await session.fetchval("SELECT timeline()") == timeline + 1
    await session.execute("INSERT INTO told VALUES (2)")
    await session.close()


@pytest.mark.parametrize("name", ["stop-kafka", "kill-kafka"])
async def test_kafka_restarts(one: Ground, name: str) -> None:
    async with one.producer("w1") as producer:
        assert await acked(producer, one.topic, f"before {name}".encode(), 60.0)
        pid = one.servers.brokers.nodes[0].pid
        async with struck(name, one):
            during = asyncio.ensure_future(
                producer.send_and_wait(one.topic, f"during {name}".encode(), partition=0)
            )
            await asyncio.wait({during}, timeout=0.3)
            assert not during.done()
        await asyncio.wait_for(during, 60.0)
    assert one.servers.brokers.nodes[0].pid != pid
    assert {f"before {name}".encode(), f"during {name}".encode()} <= set(await one.records())


async def test_a_refused_record(one: Ground) -> None:
    async with one.producer() as producer:
        assert await acked(producer, one.topic, b"x" * 100, 60.0)
        async with struck("refuse-records", one):
            with pytest.raises(MessageSizeTooLargeError):
                await producer.send_and_wait(one.topic, b"refused" * 20, partition=0)
    async with one.producer() as producer:
        assert await acked(producer, one.topic, b"x" * 100, 60.0)
    assert b"refused" * 20 not in await one.records()
    async with TopicAdmin(one.servers.kafka) as admin:
        assert await admin.check(one.settings.topics.all(("default",), 1)) == []


@pytest.mark.usefixtures("starts_servers")
async def test_no_broker_of_three_is_missed(tmp_path: Path) -> None:
    """Whichever is killed: what was acked is there, records go on, one lane leads to all three."""
    async with ground(tmp_path, 3) as three, three.producer("w1") as producer:
        brokers = three.servers.brokers
        async with TopicAdmin(three.servers.kafka) as admin:
            state = (await admin.describe([three.topic]))[three.topic]
        assert (state.replication, state.config["min.insync.replicas"]) == (3, "2")
        sent: list[bytes] = []

        async def produce() -> None:
            while True:
                value = str(len(sent)).encode()
                await producer.send_and_wait(three.topic, value, partition=0)
                sent.append(value)

        for name in ("kill-broker", "freeze-broker"):
            producing = asyncio.create_task(produce())
            before = len(sent)
            async with struck(name, three):
                if name != "freeze-broker":
                    assert sum(node.running for node in brokers.nodes) == 2
                async with asyncio.timeout(60):
                    while len(sent) < before + 20:
                        assert not producing.done(), producing.exception()
                        await asyncio.sleep(0.05)
            producing.cancel()
            with contextlib.suppress(asyncio.CancelledError, KafkaError):
                await producing
        assert set(sent) <= set(await three.records())
