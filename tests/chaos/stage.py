"""A stage: topics, a database, a scripted model, an edge and workers, which are kept alive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import asyncpg
import psycopg
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from pydantic import SecretStr

from tests.chaos.graphs.counting import EFFECTS
from tests.chaos.leaks import sockets_of, tasks_of
from tests.chaos.log import LogReader
from tests.chaos.parts.topic_faults import TOO_SMALL
from tests.chaos.patience import PatientPool
from tests.chaos.processes import Process
from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.postgres.migrate import migrate
from turnstream.deploy.local.scripted.server import ScriptedServer
from turnstream.streams.app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tests.chaos.processes import Template

HERE = Path(__file__).parent
PARTITIONS = 4
TENANT = "default"
WORKERS = 3
PATIENCE_S, PLANTED_PATIENCE_S = 60.0, 10.0
"""For a story's turns to end, every fault healed; one that takes longer has broken invariant 1."""
TEND_EVERY_S = 0.1
SEND_S = 60.0
REQUEST_S = 10.0
"""For the edge to answer one request; it may have been cut off in the middle of it."""
TOPIC_REFUSED = f"turn-events: max.message.bytes is {TOO_SMALL}"
"""What a worker ends with that starts while `refuse-records` holds: another one is started."""
_migrating = asyncio.Lock()  # alembic is not made for threads

_BUSY = """
SELECT w.name FROM threads t JOIN workers w ON w.worker = t.owner
 WHERE t.thread_key = ANY ($1) ORDER BY t.thread_key
"""


class RealStage:
    """Implements `faults.Stage`; `stage` makes and ends one."""

    def __init__(self, name: str, folder: Path, servers: Any, template: Template) -> None:
        self.name, self.folder, self.servers = name, folder, servers
        self.random = Random(name)
        self.model = ScriptedServer()
        self.threads: Sequence[str] = ()
        self.planted = ""
        self.patience_s = PATIENCE_S
        self.workers_wanted = WORKERS
        self.tending = True
        self.broke: list[str] = []
        """Processes that nobody killed, and how they ended."""
        self.fresh: dict[str, tuple[Counter[str], int]] = {}
        self.own_groups = not servers.session_ms
        self._template = template
        self._processes: list[Process] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._made = 0
        self._free_ports: list[int] = []
        """Those of workers that are dead: a long campaign has more workers than there are ports."""

    # -- what a fault sees -----------------------------------------------------------------------

    @property
    def workers(self) -> list[Process]:
        """Those that run and were not told to end, the oldest first."""
        return self._running("worker")

    @property
    def edges(self) -> list[Process]:
        """Those that run and were not told to end."""
        return self._running("edge")

    def _running(self, kind: str) -> list[Process]:
        return [p for p in self._processes if p.kind == kind and p.alive and not p.meant_to_end]

    async def ask(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """Ask the database, again while it is away."""
        return await self.db.fetch(query, *values)

    async def busy_worker(self) -> Process | None:
        """The worker that owns a thread of this story, None if none does."""
        keys = [f"{TENANT}/{thread}" for thread in self.threads]
        names = [row["name"] for row in await self.ask(_BUSY, keys)]
        busy = [worker for worker in self.workers if worker.name in names]
        return self.random.choice(busy) if busy else None

    def arm(self, point: str, thread: str, action: str, count: int = 1) -> None:
        """Let the next worker that is at a point on a thread do `action`; see `points.py`."""
        (self.folder / "armed" / f"{thread}@{point}").write_text(f"{action} {count}")

    def hit_of(self, point: str, thread: str) -> tuple[str, float] | None:
        """Who was struck at an armed point, and when (seconds since 1970); None before."""
        path = self.folder / "hit" / f"{thread}@{point}"
        if not path.exists():
            return None
        return path.read_text().rpartition(" ")[2], path.stat().st_mtime

    async def hit(self, point: str, thread: str, timeout_s: float) -> bool:
        """Wait until an armed point was reached; False if it was not in this time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.hit_of(point, thread):
                return True
            await asyncio.sleep(0.01)
        return False

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
        """Wait until a condition, which may be a coroutine function, holds; return its value."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"never came: {what}")
            await asyncio.sleep(0.01)

    # -- its life --------------------------------------------------------------------------------

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Start everything; `stack` ends it."""
        servers = self.servers
        prefix = f"{self.name}-"
        self._database = f"chaos_{self.name}"
        stack.callback(self._drop_database)
        await asyncio.to_thread(self._create_database)
        self.settings = Settings(
            _env_file=None,
            kafka_bootstrap=servers.kafka,
            topic_prefix=prefix,
            database_url=SecretStr(self._url(servers.database, "campaign")),
            partitions=PARTITIONS,
        )
        async with _migrating:
            await asyncio.to_thread(migrate, self.settings.direct_url)
        self.topics = self.settings.topics
        async with TopicAdmin(servers.kafka) as admin:
            await admin.create(self.topics.all(self.settings.tenants, PARTITIONS))
        pool = await asyncpg.create_pool(self.settings.direct_url, min_size=0, max_size=4)
        self.db = PatientPool(pool)
        stack.push_async_callback(self.db.close)
        await self.db.execute(EFFECTS)
        await self.db.execute((HERE / "witness.sql").read_text())
        await stack.enter_async_context(self.model)
        self.producer = AIOKafkaProducer(bootstrap_servers=servers.kafka, acks="all")
        await self.producer.start()
        stack.push_async_callback(self.producer.stop)
        self.log = await stack.enter_async_context(
            LogReader(servers.kafka, self.topics, TENANT, PARTITIONS)
        )
        self.http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_S))
        )
        for folder in ("armed", "hit", "tmp"):
            (self.folder / folder).mkdir(parents=True)
        self.edge_port = servers.ports.take()
        self.url = servers.edge_for(self.name, f"http://127.0.0.1:{self.edge_port}")
        self.model_url = servers.model_for(self.name, self.model.url)
        stack.push_async_callback(self._end_processes)
        for loop in (self.log.run(), self._tend()):
            task = asyncio.create_task(loop)
            stack.push_async_callback(_end, task)
        await self.whole()
        for process in (self.workers[0], self.edges[0]):
            self.fresh[process.kind] = await tasks_of(process), sockets_of(process)

    async def whole(self) -> None:
        """Wait until all workers and the edge are ready."""
        await self._ready(self.workers_wanted)

    async def enough(self) -> None:
        """Wait until two workers and the edge are ready, so that a story can begin."""
        await self._ready(2)

    async def _ready(self, workers: int) -> None:
        async def ready() -> bool:
            fit = [p for p in (*self.workers, *self.edges) if await self._is_ready(p)]
            count = sum(p.kind == "worker" for p in fit)
            return count >= workers and any(p.kind == "edge" for p in fit)

        await self.until(ready, f"{workers} workers and an edge", 60.0)

    async def _is_ready(self, process: Process) -> bool:
        """Ask a worker until it was ready; an edge may have stopped taking commands."""
        if process.kind == "worker" and process.was_ready:
            return True
        ready = await process.is_ready(self.http)
        process.was_ready = process.was_ready or ready
        return ready

    async def _tend(self) -> None:
        """Put new processes in the place of those that died."""
        while True:
            for process in [p for p in self._processes if not p.alive]:
                self._processes.remove(process)
                self.servers.release(f"{self.name}/{process.name}")
                code = await self._template.reap(process)
                said = process.log.read_text()[-1500:]
                if code > 0 and TOPIC_REFUSED not in said:
                    self.broke.append(f"{process.name} ended by itself with {code}: {said}")
                elif process.kind == "worker":
                    self._free_ports.append(process.port)
            missing = self.workers_wanted - len(self.workers)
            for _ in range(missing):
                await self._start("worker", self._worker_port())
            if self.tending and not any(p.kind == "edge" for p in self._processes):
                await self._start("edge", self.edge_port)
            await asyncio.sleep(TEND_EVERY_S)

    def _worker_port(self) -> int:
        return self._free_ports.pop() if self._free_ports else self.servers.ports.take()

    async def _start(self, kind: str, port: int) -> None:
        self._made += 1
        name = f"{self.name}-{kind[0]}{self._made}"
        env = self._environment(name, kind, port)
        log = self.folder / f"{name}.log"
        self._processes.append(await self._template.fork(kind, name, log, env, port))

    def _environment(self, name: str, kind: str, port: int) -> dict[str, str]:
        servers, prefix = self.servers, self.settings.topic_prefix
        group = name if self.own_groups else f"{prefix}workers"
        given = {
            "KAFKA_BOOTSTRAP": servers.kafka_for(f"{self.name}/{name}"),
            "DATABASE_URL": self._url(servers.database_for(f"{self.name}/{name}"), name),
            "TOPIC_PREFIX": prefix,
            "CONSUMER_GROUP": group,
            "MODEL_URL": self.model_url,
            "MODEL_NAME": "scripted",
            "PARTITIONS": str(PARTITIONS),
            "LANGGRAPH_JSON": str(HERE / "graphs" / "langgraph.json"),
            "POOL_SIZE_MAX": "4",
            "DRAIN_TIMEOUT_S": "4",
            "EDGE_SOCKETS_PER_USER_MAX": "1000",
            "EDGE_REQUESTS_PER_S_MAX": "10000",
            "WORKER_HEALTH_PORT" if kind == "worker" else "EDGE_PORT": str(port),
        }
        return {
            **{f"TURNSTREAM_{key}": value for key, value in given.items()},
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_SESSION_MS": str(servers.session_ms),
            "CHAOS_PLANTED": self.planted,
            "COUNTING_DATABASE": self._url(servers.database, name),
            "SCRIPTED_URL": self.model_url,
            "TMPDIR": str(self.folder / "tmp"),
        }

    def _url(self, server: str, name: str) -> str:
        parts = urlsplit(server)._replace(
            path=f"/{self._database}", query=f"application_name={name}"
        )
        return urlunsplit(parts)

    def _create_database(self) -> None:
        with psycopg.connect(self.servers.database, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{self._database}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{self._database}"')

    def _drop_database(self) -> None:
        with psycopg.connect(self.servers.database, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{self._database}" WITH (FORCE)')

    async def _end_processes(self) -> None:
        for process in self._processes:
            process.thaw()
            process.kill()
        for process in self._processes:
            await process.ended()
            await self._template.reap(process)

    # -- what a story does -----------------------------------------------------------------------

    async def make_thread(self, thread: str, graph: str) -> None:
        """Make a thread, by an edge that may be coming back."""
        body = {"thread_id": thread, "metadata": {"graph_id": graph}, "if_exists": "do_nothing"}

        async def made() -> bool:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self.http.post(f"{self.url}/threads", json=body) as response:
                    return response.status == 200
            return False

        await self.until(made, f"thread {thread}")

    async def send(self, thread: str, command: dict[str, Any]) -> tuple[int, int]:
        """Produce a command, again and again while Kafka is down; return where it lies."""
        value = json.dumps({"thread_id": thread, **command}).encode()
        async with asyncio.timeout(SEND_S):
            while True:
                try:
                    sent = await self.producer.send_and_wait(
                        self.topics.turns_of(TENANT), value, key=thread.encode()
                    )
                except KafkaError:
                    await asyncio.sleep(TEND_EVERY_S)
                else:
                    return sent.partition, sent.offset

    async def state_of(self, thread: str) -> Any:
        """Return the thread's state as the edge tells it, None while there is no edge."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.get(f"{self.url}/threads/{thread}/state") as response:
                if response.status == 200:
                    return await response.json()
        return None

    def clear(self) -> None:
        """Disarm what no worker reached, and forget what was hit."""
        for folder in ("armed", "hit"):
            for path in (self.folder / folder).iterdir():
                path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def stage(
    name: str, folder: Path, servers: Any, template: Template, planted: str = ""
) -> AsyncIterator[RealStage]:
    """Open a stage."""
    made = RealStage(name, folder, servers, template)
    if planted:
        made.planted, made.patience_s = planted, PLANTED_PATIENCE_S
    async with contextlib.AsyncExitStack() as stack:
        await made.open(stack)
        yield made


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
