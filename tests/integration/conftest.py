"""A scene: topics, a database, a scripted model server, and workers beside them or inside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from pydantic import SecretStr

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.deploy.local.machine import Ports
from turnstream.deploy.local.scripted.server import ScriptedServer
from turnstream.schemas.fold.fold import ThreadFold, TurnView
from turnstream.schemas.ids import thread_key
from turnstream.streams.app.settings import Settings
from turnstream.streams.app.worker import open_worker
from turnstream.streams.worker.worker import Worker

sys.path.insert(0, str(Path(__file__).parent))
from outage_servers import Servers

PARTITIONS = 4
WORKER = ("-m", "turnstream.streams.cli", "worker", "--no-create", "--name")


class Process:
    """A worker as a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    async def ready(self, timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as http:
            while True:
                if self.process.poll() is not None:
                    raise AssertionError(f"the worker ended: {self.log.read_text()[-3000:]}")
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"http://127.0.0.1:{self.port}/readyz") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.05)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    async def terminate(self, timeout_s: float = 60.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(timeout_s):
            while self.process.poll() is None:
                await asyncio.sleep(0.02)
        return self.process.returncode


class Scene:
    """Everything that a turn needs, and ways to look at what came of it."""

    def __init__(self, settings: Settings, folder: Path, model: ScriptedServer) -> None:
        self.settings, self.folder, self.model = settings, folder, model
        self.codec = Codec()
        self.topics = settings.topics
        self.processes: list[Process] = []
        self.folds: dict[str, ThreadFold] = {}
        self.log: list[tuple[int, int, Any]] = []  # partition, offset, record
        self.letters: list[Any] = []
        self.results: list[Any] = []
        self.verdicts: list[Any] = []

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        self.producer = AIOKafkaProducer(bootstrap_servers=self.settings.kafka_bootstrap, acks=1)
        await self.producer.start()
        stack.push_async_callback(self.producer.stop)
        outputs = (self.topics.events, self.topics.dead_letters, *self._results())
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka_bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=8 << 20,
        )
        await self.consumer.start()
        stack.push_async_callback(self.consumer.stop)
        self.consumer.assign([TopicPartition(t, p) for t in outputs for p in range(PARTITIONS)])
        reading = asyncio.create_task(self._read())
        stack.push_async_callback(_end, reading)
        self.db = await asyncpg.connect(self.settings.database_url.get_secret_value())
        stack.push_async_callback(self.db.close)

    def _results(self) -> tuple[str, ...]:
        return tuple(self.topics.results_of(tenant) for tenant in self.settings.tenants)

    async def _read(self) -> None:
        async for message in self.consumer:
            record = self.codec.decode(message.value)
            if message.topic == self.topics.events:
                self.log.append((message.partition, message.offset, record))
                fold = self.folds.setdefault(message.key.decode(), ThreadFold())
                change = fold.apply(record, message.offset)
                self.verdicts.append(change.verdict)
            elif message.topic == self.topics.dead_letters:
                self.letters.append(record)
            else:
                self.results.append(record)

    # -- what goes in ----------------------------------------------------------------------------

    async def send(
        self,
        value: bytes | dict[str, Any],
        *,
        key: bytes | None = None,
        topic: str = "",
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
    ) -> tuple[int, int]:
        data = json.dumps(value).encode() if isinstance(value, dict) else value
        done = await self.producer.send_and_wait(
            topic or self.topics.turns_of("default"),
            data,
            key=key,
            partition=partition,
            headers=list(headers),
        )
        return done.partition, done.offset

    async def start(self, thread: str, text: str, **fields: Any) -> str:
        turn = fields.pop("turn_id", None) or str(uuid.uuid4())
        await self.send(
            {"thread_id": thread, "text": text, "turn_id": turn, **fields}, key=thread.encode()
        )
        return turn

    async def cancel(self, thread: str, turn: str) -> None:
        await self.send(
            {"type": "CancelTurn", "thread_id": thread, "turn_id": turn}, key=thread.encode()
        )

    # -- what came of it -------------------------------------------------------------------------

    def view(self, thread: str, turn: str, tenant: str = "default") -> TurnView | None:
        fold = self.folds.get(thread_key(tenant, thread))
        return fold.turns.get(turn) if fold else None

    async def until(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                while not (found := condition()):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(self._seen()) from None
        return found

    def _seen(self) -> str:
        tail = "\n".join(p.log.read_text()[-1500:] for p in self.processes)
        return f"letters={self.letters} log={[r for _, _, r in self.log[-5:]]}\n{tail}"

    async def done(self, thread: str, turn: str, timeout_s: float = 60.0) -> TurnView:
        await self.until(lambda: (v := self.view(thread, turn)) and v.done, timeout_s)
        view = self.view(thread, turn)
        assert view is not None
        return view

    async def text_of(self, thread: str, turn: str) -> str:
        """The last message's text as the log tells it."""
        from turnstream.schemas.fold.transcript import transcript

        view = self.view(thread, turn)
        assert view is not None
        return transcript(view).messages[-1].text

    async def closed(self, turn: str, timeout_s: float = 60.0) -> asyncpg.Record:
        async with asyncio.timeout(timeout_s):
            while True:
                row = await self.db.fetchrow(
                    "SELECT * FROM turns WHERE turn_id = $1", uuid.UUID(turn)
                )
                if row is not None and row["closed_at"] is not None:
                    return row
                await asyncio.sleep(0.01)

    # -- workers ---------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def worker(self, **changes: Any) -> AsyncIterator[Worker]:
        """A worker inside of this process."""
        settings = self.settings.model_copy(update=changes)
        async with open_worker(settings, name=f"in-{uuid.uuid4().hex[:6]}") as worker:
            running = asyncio.create_task(worker.run())
            test = asyncio.current_task()
            running.add_done_callback(
                lambda task: task.cancelled() or task.exception() is None or test.cancel()
            )
            try:
                await self.until(lambda: running.done() or not worker.not_ready())
                yield worker
            finally:
                worker.stop()
                async with asyncio.timeout(60):
                    await running

    def process(
        self, name: str, *, program: tuple[str, ...] = WORKER, **environment: str
    ) -> Process:
        """A worker as a process; `await ready()` before it counts."""
        port = Ports().take()
        log = self.folder / f"{name}-{len(self.processes)}.log"
        given = {
            "KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "TOPIC_PREFIX": self.settings.topic_prefix,
            "CONSUMER_GROUP": self.settings.consumer_group,
            "DATABASE_URL": self.settings.database_url.get_secret_value(),
            "MODEL_URL": self.settings.model_url,
            "MODEL_NAME": "scripted",
            "PARTITIONS": str(PARTITIONS),
            "TENANTS": json.dumps(self.settings.tenants),
            "WORKER_HEALTH_PORT": str(port),
            **environment,
        }
        # a process starts in a third of the time where it may keep its bytecode
        bytecode = {
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": f"{tempfile.gettempdir()}/turnstream-tests-bytecode",
        }
        with log.open("wb") as out:
            started = subprocess.Popen(
                [sys.executable, *program, name],
                env={**os.environ, **bytecode, **{f"TURNSTREAM_{k}": v for k, v in given.items()}},
                stdout=out,
                stderr=out,
                cwd=self.folder,
            )
        process = Process(started, port, log)
        self.processes.append(process)
        return process


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def scene(kafka: str, ledger_dsn: str, prefix: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with contextlib.AsyncExitStack() as stack:
        model = await stack.enter_async_context(ScriptedServer())
        settings = Settings(
            kafka_bootstrap=kafka,
            topic_prefix=prefix,
            consumer_group=f"{prefix}workers",
            database_url=SecretStr(ledger_dsn),
            tenants=("default", "acme"),
            partitions=PARTITIONS,
            model_url=model.url,
            model_name="scripted",
            drain_timeout_s=2.0,
        )
        async with TopicAdmin(kafka) as admin:
            await admin.create(settings.topics.all(settings.tenants, PARTITIONS))
        scene = Scene(settings, tmp_path, model)
        await scene.open(stack)
        try:
            yield scene
        finally:
            for process in scene.processes:
                if process.process.poll() is None:
                    process.kill()


@pytest.fixture(scope="module")
def servers(starts_servers: None) -> Iterator[Servers]:
    """Return a Kafka and a Postgres that a module's tests may end."""
    servers = Servers()
    servers.open()
    yield servers
    servers.close()


@pytest.fixture
def clock() -> Callable[[], float]:
    return time.monotonic
