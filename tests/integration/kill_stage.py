"""The whole service as processes, beside two scripted models, for workers to be killed in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from pydantic import SecretStr

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.kafka.read.scan import LogScan, partition_of
from turnstream.connectors.postgres.migrate import migrate
from turnstream.deploy.local.machine import Ports
from turnstream.deploy.local.scripted.server import ScriptedServer
from turnstream.schemas.fold.fold import ThreadFold, Verdict
from turnstream.streams.app.settings import Settings
from turnstream.streams.replay.log import Replayer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from turnstream.schemas.fold.fold import Change, TurnView
    from turnstream.schemas.records.events import Event
    from turnstream.streams.replay.view import TurnReplay

HERE = Path(__file__).parent
GRAPHS = HERE / "graphs" / "langgraph.json"
PARTITIONS = 4
TENANT = "default"

_CLOSING_WAITS = """
CREATE OR REPLACE FUNCTION wait_to_close() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(1);
  RETURN NEW;
END $$;
CREATE TRIGGER closing_waits BEFORE UPDATE ON turns FOR EACH ROW
  WHEN (OLD.closed_at IS NULL AND NEW.closed_at IS NOT NULL) EXECUTE FUNCTION wait_to_close();
"""


class Process:
    """A process of ours with a port that says when it is ready."""

    def __init__(self, name: str, pid: int, port: int, log: Path) -> None:
        self.name, self.pid, self.port, self.log = name, pid, port, log

    @property
    def alive(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    async def ready(self, timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as http:
            while True:
                if not self.alive:
                    raise AssertionError(f"{self.name} ended: {self.log.read_text()[-3000:]}")
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"http://127.0.0.1:{self.port}/readyz") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.05)

    def kill(self) -> None:
        """Kill -9; nothing happens to one that is dead."""
        os.kill(self.pid, signal.SIGKILL)

    def send(self, how: signal.Signals) -> None:
        os.kill(self.pid, how)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class Held(ScriptedServer):
    """A scripted server whose requests wait in its queue while it is held."""

    def hold(self) -> None:
        self.slots = -1

    def let_go(self) -> None:
        self.slots = 0
        while self.waiting:
            connection = self.waiting.popleft()
            self.running.add(connection)
            connection.run()


class Stage:
    """Topics, tables, models, an edge, and workers as they are asked for."""

    def __init__(self, kafka: str, database: str, prefix: str, folder: Path) -> None:
        self.settings = Settings(
            _env_file=None,
            kafka_bootstrap=kafka,
            topic_prefix=prefix,
            database_url=SecretStr(database),
            partitions=PARTITIONS,
        )
        self.topics, self.folder = self.settings.topics, folder
        self.model, self.held = ScriptedServer(), Held(model="held")
        self.codec = Codec()
        self.processes: list[Process] = []
        self.log: dict[str, list[Event]] = defaultdict(list)  # by turn
        self.changes: dict[str, list[Change]] = defaultdict(list)
        self.folds: dict[str, ThreadFold] = defaultdict(ThreadFold)
        self.results: dict[str, list[Any]] = defaultdict(list)
        self.came: dict[tuple[str, int], float] = {}  # turn, epoch: its fence was read

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Start everything but workers."""
        settings = self.settings
        await asyncio.to_thread(migrate, settings.direct_url)
        async with TopicAdmin(settings.kafka_bootstrap) as admin:
            await admin.create(self.topics.all(settings.tenants, PARTITIONS))
        for server in (self.model, self.held):
            await stack.enter_async_context(server)
        forks = subprocess.Popen(
            [sys.executable, str(HERE / "halting_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self.folder,
        )
        stack.callback(_stop, forks)
        stack.callback(self._end_processes)
        edge = self._edge(stack)
        self.url = f"http://127.0.0.1:{edge.port}"
        self.db = await asyncpg.connect(settings.direct_url)
        stack.push_async_callback(self.db.close)
        self.producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, acks="all")
        await self.producer.start()
        stack.push_async_callback(self.producer.stop)
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.kafka_bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
        )
        await self.consumer.start()
        stack.push_async_callback(self.consumer.stop)
        outputs = (self.topics.events, self.topics.results_of(TENANT))
        self.consumer.assign([TopicPartition(t, p) for t in outputs for p in range(PARTITIONS)])
        reading = asyncio.create_task(self._read())
        stack.push_async_callback(_end, reading)
        self.http = await stack.enter_async_context(aiohttp.ClientSession())
        await asyncio.to_thread(forks.stdout.readline)
        self._forks = forks
        await edge.ready()

    def worker(self, name: str, group: str, **environment: str) -> Process:
        """Start a worker; `await ready()` before it counts."""
        port = Ports().take()
        env = self._environment(
            WORKER_HEALTH_PORT=str(port),
            CONSUMER_GROUP=f"{self.settings.topic_prefix}{group}",
            **environment,
        )
        log = self.folder / f"{name}.log"
        asked = {"name": name, "log": str(log), "env": env}
        self._forks.stdin.write(json.dumps(asked).encode() + b"\n")
        self._forks.stdin.flush()
        pid = json.loads(self._forks.stdout.readline())["pid"]
        self.processes.append(Process(name, pid, port, log))
        return self.processes[-1]

    def _edge(self, stack: contextlib.AsyncExitStack) -> Process:
        port, log = Ports().take(), self.folder / "edge.log"
        env = self._environment(
            EDGE_PORT=str(port), EDGE_SOCKETS_PER_USER_MAX="1000", EDGE_REQUESTS_PER_S_MAX="10000"
        )
        with log.open("wb") as out:
            started = subprocess.Popen(
                [sys.executable, "-m", "turnstream.streams.cli", "edge", "--no-create"],
                env={**os.environ, **env},
                stdout=out,
                stderr=out,
                cwd=self.folder,
            )
        stack.callback(_stop, started)
        return Process("edge", started.pid, port, log)

    def _environment(self, **more: str) -> dict[str, str]:
        given = {
            "KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "TOPIC_PREFIX": self.settings.topic_prefix,
            "DATABASE_URL": self.settings.direct_url,
            "MODEL_URL": self.model.url,
            "MODEL_NAME": "scripted",
            "MODEL_ROUTES": json.dumps({"held": self.held.url}),
            "PARTITIONS": str(PARTITIONS),
            "LANGGRAPH_JSON": str(GRAPHS),
            **more,
        }
        return {
            **{f"TURNSTREAM_{key}": value for key, value in given.items()},
            "HALT_FOLDER": str(self.folder),
            "SCRIPTED_URL": self.model.url,
            "HELD_URL": self.held.url,
        }

    def _end_processes(self) -> None:
        for process in self.processes:
            process.kill()

    async def _read(self) -> None:
        """The client that reads Kafka itself: it folds what it reads."""
        async for message in self.consumer:
            record = self.codec.decode(message.value)
            if message.topic != self.topics.events:
                self.results[record.turn_id].append(record)
                continue
            change = self.folds[record.thread_id].apply(record, message.offset)
            self.log[record.turn_id].append(record)
            self.changes[record.turn_id].append(change)
            if change.verdict in (Verdict.STARTED, Verdict.REWOUND):
                self.came.setdefault((record.turn_id, record.epoch), time.monotonic())

    # -- threads and turns -----------------------------------------------------------------------

    async def thread(self, name: str, partition: int | None = None) -> str:
        """Make a thread, one that lies in this input partition."""
        while True:
            thread = f"{name}-{uuid.uuid4().hex[:6]}"
            at = partition_of(f"{TENANT}/{thread}".encode(), PARTITIONS)
            if partition is None or at == partition:
                break
        async with self.http.post(f"{self.url}/threads", json={"thread_id": thread}) as response:
            assert response.status == 200, await response.text()
        return thread

    async def probe(self) -> tuple[str, int]:
        """Run a turn; return the worker that took it, and the input partition it came by."""
        thread = await self.thread("probe")
        said = {"assistant_id": "agent", "input": asking("tokens=1")}
        async with self.http.post(f"{self.url}/threads/{thread}/runs/wait", json=said) as response:
            assert response.status == 200, await response.text()
        found = await self.until(lambda: self.turn_of(thread), "the probe's turn")
        at = partition_of(f"{TENANT}/{thread}".encode(), PARTITIONS)
        return self.log[found][0].worker, at

    def turn_of(self, thread: str) -> str:
        """The id of the thread's only turn, "" before its first record."""
        return next(iter(self.folds[thread].turns), "")

    def view(self, thread: str) -> TurnView | None:
        return self.folds[thread].turns.get(self.turn_of(thread))

    async def done(self, thread: str) -> TurnView:
        """The thread's turn, once its end was read here, too: clients may hear of it before."""
        return await self.until(
            lambda: (view := self.view(thread)) and view.done and view, f"the end of {thread}"
        )

    def ran(self, thread: str) -> list[str]:
        """What the thread's nodes noted, in order."""
        file = self.folder / f"{thread}.ran"
        return file.read_text().split() if file.exists() else []

    def open_gate(self, thread: str) -> None:
        (self.folder / f"{thread}.open").touch()

    async def kept(self, thread: str) -> tuple[int, list[dict[str, Any]]]:
        """What the ledger holds as committed: `keep_n` and `keep`."""
        row = await self.db.fetchrow(
            "SELECT keep_n, keep::text FROM threads WHERE thread_key = $1", f"{TENANT}/{thread}"
        )
        return (row["keep_n"], json.loads(row["keep"])) if row else (0, [])

    @contextlib.asynccontextmanager
    async def closing_waits(self) -> AsyncIterator[None]:
        """Let no turn be closed in here; who tries it waits in its transaction, and then fails."""
        await self.db.execute(_CLOSING_WAITS)
        await self.db.execute("SELECT pg_advisory_lock(1)")
        try:
            yield
        finally:
            await self.db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event = 'advisory'"
            )
            await self.db.execute("DROP TRIGGER closing_waits ON turns")
            await self.db.execute("SELECT pg_advisory_unlock(1)")

    async def waits_to_close(self) -> bool:
        return bool(
            await self.db.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event = 'advisory'"
            )
        )

    async def closed(self, turn: str) -> asyncpg.Record:
        async with asyncio.timeout(60):
            while True:
                row = await self.db.fetchrow(
                    "SELECT * FROM turns WHERE turn_id = $1", uuid.UUID(turn)
                )
                if row is not None and row["closed_at"] is not None:
                    return row
                await asyncio.sleep(0.02)

    async def replayed(self, turn: str) -> TurnReplay:
        """The turn as an auditor sees it."""
        async with LogScan(self.settings.kafka_bootstrap) as scan:
            replayer = Replayer(scan, self.codec, self.topics.events, partition_of)
            return (await replayer.turn(turn, TENANT)).turns[turn]

    async def say(self, record: Event) -> None:
        """Append a record to the log, as a producer that comes too late would."""
        key = f"{TENANT}/{record.thread_id}"
        partition = await self.db.fetchval(
            "SELECT partition FROM threads WHERE thread_key = $1", key
        )
        await self.producer.send_and_wait(
            self.topics.events, self.codec.encode(record), key=key.encode(), partition=partition
        )

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
        """Wait until a condition, which may be a coroutine function, holds; return its value."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = condition()
                    if asyncio.iscoroutine(found):
                        found = await found
                    if found:
                        return found
                    await asyncio.sleep(0.01)
        except TimeoutError:
            logs = "\n".join(f"{p.name}: {p.log.read_text()[-1500:]}" for p in self.processes)
            raise AssertionError(f"never came: {what}\n{logs}") from None


def asking(text: str) -> dict[str, Any]:
    """A graph's input: one user message."""
    return {"messages": [{"role": "user", "content": text}]}


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
