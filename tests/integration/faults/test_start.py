"""A worker, an edge and a processor that start while a server is away, or where nothing helps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psycopg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.postgres.migrate import migrate
from turnstream.deploy.local.machine import Ports
from turnstream.schemas.topics import Topics
from turnstream.streams.app.worker import open_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from outage_servers import Servers

COMMANDS = ("worker", "edge")
PROCESSOR = "processor usage"
AT_ONCE_S = 90.0
"""For an interpreter to start and to end beside other work; what it may wait is set longer."""

pytestmark = pytest.mark.timeout(180)


class Started:
    """A process of the command line, with the port at which it says how it is."""

    def __init__(self, command: str, folder: Path, *more: str, **environment: str) -> None:
        self.log = folder / f"{command}.log"
        self.port = Ports().take()
        given = {
            "MODEL_URL": "http://127.0.0.1:1/v1",
            "MODEL_NAME": "none",
            "PARTITIONS": "2",
            "WORKER_HEALTH_PORT" if command == "worker" else "EDGE_PORT": str(self.port),
            "PROCESSOR_FOLDER": str(folder / "processor"),
            **environment,
        }
        # a process starts in a third of the time where it may keep its bytecode
        bytecode = {
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": f"{tempfile.gettempdir()}/turnstream-tests-bytecode",
        }
        kept = {key: value for key, value in os.environ.items() if "TURNSTREAM_" not in key}
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "turnstream.streams.cli", *command.split(), *more],
                env={**kept, **bytecode, **{f"TURNSTREAM_{k}": v for k, v in given.items()}},
                stdout=out,
                stderr=out,
                cwd=folder,
            )

    async def asked(self, path: str) -> tuple[int, Any]:
        with contextlib.suppress(aiohttp.ClientError):
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"http://127.0.0.1:{self.port}{path}") as response,
            ):
                return response.status, await response.json()
        return 0, {}

    async def ended(self, timeout_s: float = AT_ONCE_S) -> int:
        await until(lambda: self.process.poll() is not None, timeout_s)
        return self.process.returncode

    def said(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(s) for s in self.log.read_text().splitlines() if s.startswith("{")]
        return [line for line in lines if line["event"] == event]


async def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not (await found if asyncio.iscoroutine(found := condition()) else found):
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def started(
    folder: Path, *commands: str, more: tuple[str, ...] = (), **environment: str
) -> AsyncIterator[list[Started]]:
    processes = [Started(command, folder, *more, **environment) for command in commands]
    try:
        yield processes
    except BaseException:
        for one in processes:
            print(one.log.read_text()[-3000:])
        raise
    finally:
        for one in processes:
            one.process.kill()
            one.process.wait()


@pytest.mark.parametrize(
    ("part", "called"), [("postgres", "Postgres at 127.0.0.1:"), ("kafka", "Kafka at 127.0.0.1:")]
)
async def test_both_wait_for_a_server_that_comes_later(
    servers: Servers, prefix: str, tmp_path: Path, part: str, called: str
) -> None:
    await servers.end(part, signal.SIGKILL)
    async with started(
        tmp_path,
        *COMMANDS,
        KAFKA_BOOTSTRAP=servers.stack.kafka_bootstrap,
        DATABASE_URL=servers.stack.database_url,
        TOPIC_PREFIX=prefix,
        START_TIMEOUT_S="120",
    ) as processes:
        for one in processes:

            async def listens(one: Started = one) -> bool:
                return (await one.asked("/healthz"))[0] == 200

            await until(listens)
            status, body = await one.asked("/readyz")
            assert (status, body["status"]) == (503, "not ready")
            assert body["reason"].startswith(f"waits for {called}")
            assert (await one.asked("/threads/x/state"))[0] == 503

        await servers.start(part)

        for one in processes:

            async def ready(one: Started = one) -> bool:
                assert one.process.poll() is None
                return (await one.asked("/readyz"))[0] == 200

            await until(ready)
            told = one.said("waits_for")
            assert [line["part"].startswith(called) for line in told] == [True]
            one.process.send_signal(signal.SIGTERM)
        assert [await one.ended() for one in processes] == [0, 0]


@pytest.mark.parametrize("part", ["postgres", "kafka"])
async def test_a_processor_waits_too(
    servers: Servers, prefix: str, tmp_path: Path, part: str
) -> None:
    await servers.end(part, signal.SIGKILL)
    async with started(
        tmp_path,
        PROCESSOR,
        KAFKA_BOOTSTRAP=servers.stack.kafka_bootstrap,
        DATABASE_URL=servers.stack.database_url,
        TOPIC_PREFIX=prefix,
        START_TIMEOUT_S="120",
    ) as (processor,):
        await until(lambda: processor.said("waits_for"))
        await servers.start(part)
        await until(lambda: "Ready" in processor.log.read_text())
        assert processor.said("wait_over")
        processor.process.send_signal(signal.SIGTERM)
        assert await processor.ended() == 0


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("how", ["silent", "closed"])
@pytest.mark.parametrize("part", ["KAFKA_BOOTSTRAP", "DATABASE_URL"])
async def test_a_stop_signal_ends_the_wait(
    request: Any, kafka: str, database: str, tmp_path: Path, how: str, part: str
) -> None:
    at = request.getfixturevalue(how)
    given = {"KAFKA_BOOTSTRAP": kafka, "DATABASE_URL": database}
    given[part] = at if part == "KAFKA_BOOTSTRAP" else f"postgresql://user:word@{at}/there"
    every = (*COMMANDS, PROCESSOR)
    async with started(tmp_path, *every, START_TIMEOUT_S="600", **given) as processes:
        await until(lambda: all(one.said("waits_for") for one in processes))
        for one in processes:
            one.process.send_signal(signal.SIGTERM)
        assert [await one.ended() for one in processes] == [0, 0, 0]
        for one in processes:
            assert at in one.said("waits_for")[0]["part"]
            assert "word" not in one.log.read_text()


async def test_the_wait_is_bounded(database: str, closed: str, tmp_path: Path) -> None:
    async with started(
        tmp_path, *COMMANDS, KAFKA_BOOTSTRAP=closed, DATABASE_URL=database, START_TIMEOUT_S="1"
    ) as processes:
        assert [await one.ended() for one in processes] == [1, 1]
        for one in processes:
            assert "error (kafka_unavailable): Kafka at " in one.log.read_text()


@pytest.mark.parametrize(
    "wrong", ["user", "database", "no schema", "newer schema", "no topics", "bad topic"]
)
async def test_what_waiting_cannot_cure_ends_it_at_once(
    kafka: str, database: str, prefix: str, tmp_path: Path, wrong: str
) -> None:
    url = database
    if wrong == "user":
        url = f"postgresql://nobody:nothing@{database.partition('@')[2]}"
    elif wrong == "database":
        url = f"{database}-that-nobody-made"
    elif wrong != "no schema":
        migrate(database)
    if wrong == "newer schema":
        with psycopg.connect(database) as connection:
            connection.execute("UPDATE turnstream_revision SET version_num = '9999'")
    if wrong == "bad topic":  # with it, commands are gone before a worker that was away reads them
        topics = Topics(prefix).all(("default",), 2)
        async with TopicAdmin(kafka) as admin:
            await admin.create(
                [replace(one, config={**one.config, "retention.ms": "1000"}) for one in topics[:1]]
            )
            await admin.create(topics)
    more = ("--no-create",) if wrong in {"no schema", "no topics", "bad topic"} else ()
    async with started(
        tmp_path,
        *(COMMANDS if wrong != "no topics" else ("worker",)),
        more=more,
        KAFKA_BOOTSTRAP=kafka,
        DATABASE_URL=url,
        TOPIC_PREFIX=prefix,
        START_TIMEOUT_S="600",
    ) as processes:
        for one in processes:
            assert await one.ended() == 1
            assert "error (configuration): " in one.log.read_text()
            assert not one.said("waits_for")
            if wrong == "bad topic":
                assert f"topic {prefix}turns: retention.ms is 1000" in one.log.read_text()


async def test_a_worker_that_gets_no_first_lease_waits_and_can_be_stopped(
    scene: Any, closed: str
) -> None:
    """Postgres went away after the start had seen it."""
    away = SecretStr(f"postgresql://user@{closed}/there")
    settings = scene.settings.model_copy(update={"database_direct_url": away})
    with capture_logs() as logs:
        async with open_worker(settings) as worker:
            running = asyncio.create_task(worker.run())
            await until(lambda: running.done() or "lease_waits" in str(logs))
            assert worker.not_ready() == "no lease"
            worker.stop()
            await asyncio.wait_for(running, 10)
