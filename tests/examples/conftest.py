"""A worker process, for examples that only know Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.deploy.local.machine import Ports
from turnstream.deploy.local.scripted.server import ScriptedServer
from turnstream.schemas.topics import Topics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PARTITIONS = 2


@dataclass(frozen=True)
class Served:
    """Where the examples find Kafka, and the topics' prefix."""

    bootstrap: str
    prefix: str


@pytest.fixture
async def served(kafka: str, database: str, prefix: str, tmp_path: Path) -> AsyncIterator[Served]:
    port = Ports().take()
    log = tmp_path / "worker.log"
    async with ScriptedServer() as model:
        given = {
            "KAFKA_BOOTSTRAP": kafka,
            "DATABASE_URL": database,
            "TOPIC_PREFIX": prefix,
            "CONSUMER_GROUP": f"{prefix}workers",
            "PARTITIONS": str(PARTITIONS),
            "MODEL_URL": model.url,
            "MODEL_NAME": "scripted",
            "WORKER_HEALTH_PORT": str(port),
        }
        with log.open("wb") as out:
            worker = subprocess.Popen(
                [sys.executable, "-m", "turnstream.streams.cli", "worker"],
                env={**os.environ, **{f"TURNSTREAM_{key}": value for key, value in given.items()}},
                cwd=tmp_path,
                stdout=out,
                stderr=out,
            )
        try:
            await _ready(worker, port, log)
            yield Served(kafka, prefix)
        finally:
            worker.terminate()
            await asyncio.to_thread(worker.wait, 40)
            await _delete_topics(kafka, prefix)


async def _ready(worker: subprocess.Popen[bytes], port: int, log: Path) -> None:
    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        while True:
            assert worker.poll() is None, log.read_text()[-3000:]
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"http://127.0.0.1:{port}/readyz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)


async def _delete_topics(kafka: str, prefix: str) -> None:
    names = [topic.name for topic in Topics(prefix).all(("default",), PARTITIONS)]
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    try:
        async with TopicAdmin(kafka) as admin:
            await client.delete_topics(list(await admin.ids(names)))
    finally:
        await client.close()
