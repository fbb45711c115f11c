"""Every way in gives the same turn: JSON by any client, Avro by ours, Kafka's console tools."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.read.scan import LogScan, partition_of
from turnstream.deploy.local.jars import fetch_jars, read_lock
from turnstream.deploy.local.machine import cache_folder, find_java
from turnstream.streams.replay.log import Replayer

if TYPE_CHECKING:
    from tests.examples.conftest import Served

HERE = Path(__file__).parent
ASKED = "tokens=5"


def example(name: str) -> dict[str, object]:
    return runpy.run_path(str(HERE / name))


async def test_a_plain_client_and_the_typed_one_get_the_same(served: Served):
    plain, typed = example("plain_kafka.py")["ask"], example("typed_client.py")["ask"]

    by_json = await plain(served.bootstrap, ASKED, prefix=served.prefix, thread_id="a")
    by_avro = await typed(served.bootstrap, ASKED, prefix=served.prefix, thread_id="b")

    assert by_json.status == by_avro.status == "completed"
    assert by_json.text == by_avro.text != ""
    assert by_avro.correlation_id == "order-4711"
    async with LogScan(served.bootstrap) as scan:
        replayer = Replayer(scan, Codec(), f"{served.prefix}turn-events", partition_of)
        for thread_id in ("a", "b"):
            thread = await replayer.thread(f"default/{thread_id}")
            (turn,) = thread.turns.values()
            assert thread.problems == []
            assert turn.input is not None
            assert turn.input.text == ASKED
            assert [check.verdict for check in turn.checks] == ["match", "match"]


async def test_kafkas_own_console_tools(served: Served):
    tools = example("console_tools.py")
    class_path = await asyncio.to_thread(_class_path)
    java = str(find_java()[0])
    line = {"thread_id": "console", "text": ASKED, "correlation_id": "from-the-console"}

    await asyncio.to_thread(
        tools["produce"],
        java,
        class_path,
        served.bootstrap,
        f"{served.prefix}turns.default",
        line,
    )
    stored = await asyncio.to_thread(
        tools["consume"],
        java,
        class_path,
        served.bootstrap,
        f"{served.prefix}turn-results.default",
        1,
    )

    result = Codec().decode(stored.removesuffix(b"\n"))
    assert (result.correlation_id, result.status) == ("from-the-console", "completed")


def _class_path() -> str:
    tools = read_lock((HERE / "kafka-tools.lock").read_text())
    return ":".join(str(jar) for jar in fetch_jars((*read_lock(), *tools), cache_folder()))
