"""A log that fails changes nothing: a reader that has gone, a full disk, a full pipe, no stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from turnstream.deploy.local.machine import Ports
from turnstream.streams.process.log_output import WAIT_MS, LogOutput

LOGGING = """
import os, sys
from turnstream.streams.process.log_output import hold_standard_fds
hold_standard_fds()
import asyncio, logging, signal, structlog
from turnstream.streams.process.life import log_as_json, on_stop_signal

class Odd:
    def __repr__(self):
        raise RuntimeError("a foreign repr")

async def main():
    log_as_json("debug")
    stopped = asyncio.Event()
    on_stop_signal(stopped.set)
    log = structlog.get_logger("here")
    circle = []
    circle.append(circle)
    for value in ("x" * 300_000, "\\ud83d", Odd(), circle, {("a", 1): 2}, 10**5000, b"\\xff"):
        log.error("said", value=value)
        logging.getLogger("library").error("%s", value if value is not circle else "circle")
    print("a graph prints", flush=True)
    sys.stderr.write("a library writes\\n")
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(60):
        await stopped.wait()
    os.write(int(sys.argv[1]), b"whole")

asyncio.run(main())
"""


@pytest.fixture
def verdict():
    """A pipe by which the program says that it came to its end."""
    read, write = os.pipe()
    yield read, write
    os.close(read)


def run_logging(verdict, *, before: str = "", **streams) -> subprocess.CompletedProcess[bytes]:
    read, write = verdict
    command = f'{before} exec {sys.executable} -c "$PROGRAM" {write}'
    try:
        done = subprocess.run(
            ["bash", "-c", command],
            check=False,
            env={**os.environ, "PROGRAM": LOGGING},
            pass_fds=(write,),
            timeout=120,
            **streams,
        )
    finally:
        os.close(write)
    assert os.read(read, 100) == b"whole"
    assert done.returncode == 0
    return done


def test_values_that_json_cannot_hold_are_named_and_lose_no_line(verdict):
    done = run_logging(verdict, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith(b"{")]
    ours = [line for line in lines if line["event"] == "said"]
    assert len(ours) == 7
    assert ours[0]["value"] == "x" * 300_000
    assert ours[1]["value"] == "\ud83d"
    assert ours[2]["error_class"] == "RuntimeError"
    assert "value" in ours[3]["unwritable"]
    assert b"a graph prints" in done.stdout
    assert b"a library writes" in done.stderr


def test_a_pipe_without_a_reader(verdict):
    read, write = os.pipe()
    os.close(read)
    try:
        run_logging(verdict, stdout=write, stderr=write)
    finally:
        os.close(write)


def test_a_pipe_whose_reader_stopped_reading(verdict):
    read, write = os.pipe()
    try:
        run_logging(verdict, stdout=write, stderr=write)
    finally:
        os.close(write)
        os.close(read)


def test_a_full_disk(verdict):
    with Path("/dev/full").open("wb") as full:
        run_logging(verdict, stdout=full, stderr=full)


@pytest.mark.parametrize("closed", ["exec 2>&-;", "exec >&- 2>&-;", "exec <&- >&- 2>&-;"])
def test_closed_descriptors(verdict, closed):
    run_logging(verdict, before=closed)


def test_what_was_dropped_is_counted_once_the_pipe_takes_data_again():
    read, write = os.pipe()
    output = LogOutput(write)
    line = b"x" * 999 + b"\n"
    began = time.monotonic()
    for _ in range(1000):
        output.write(line)
    assert output.dropped > 900
    # only the first full pipe is waited for: a thousand waits would be 20 s
    assert time.monotonic() - began < 1000 * WAIT_MS / 1000 / 2
    held = os.read(read, 1 << 20)
    dropped = output.dropped
    output.write(b"after\n")
    rest = os.read(read, 1 << 20).decode()
    assert held.decode().rstrip("x\n") == ""
    notice, after = rest.lstrip("\n").splitlines()
    assert json.loads(notice) == {"event": "log_lines_dropped", "count": dropped}
    assert after == "after"
    assert output.dropped == 0
    os.close(read)
    os.close(write)


async def until(condition, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.1)


async def answers(port: int) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{port}/readyz") as response,
        ):
            return response.status == 200
    return False


async def members(kafka: str, group: str) -> bool:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        [answer] = await admin.describe_consumer_groups([group])
    except KafkaError:
        return False
    finally:
        await admin.close()
    return any("Stable" in row for row in answer.groups)


async def test_worker_edge_and_processor_run_and_end_at_the_first_signal_without_a_log_reader(
    kafka: str, ledger_dsn: str, prefix: str, tmp_path: Path
):
    read, write = os.pipe()
    os.close(read)
    worker, edge = Ports().take(), Ports().take()
    given = {
        "KAFKA_BOOTSTRAP": kafka,
        "DATABASE_URL": ledger_dsn,
        "TOPIC_PREFIX": prefix,
        "CONSUMER_GROUP": f"{prefix}workers",
        "PARTITIONS": "2",
        "MODEL_URL": "http://127.0.0.1:1/v1",
        "MODEL_NAME": "none",
        "MODEL_TRIES_MAX": "1",
        "LOG_LEVEL": "debug",
        "WORKER_HEALTH_PORT": str(worker),
        "EDGE_PORT": str(edge),
        "PROCESSOR_FOLDER": str(tmp_path / "processor"),
    }
    env = {key: value for key, value in os.environ.items() if "TURNSTREAM_" not in key}
    env |= {f"TURNSTREAM_{key}": value for key, value in given.items()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "turnstream.streams.cli", *command],
            env=env,
            stdout=write,
            stderr=write,
            cwd=tmp_path,
        )
        for command in (("worker",), ("edge",), ("processor", "usage"))
    ]
    os.close(write)
    try:
        await until(lambda: answers(worker))
        await until(lambda: answers(edge))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{edge}") as http:
            body = {"assistant_id": "agent", "input": {"messages": "hello"}}
            async with http.post("/runs/wait", json=body) as response:
                # the model server is away: the turn fails, which the worker logs
                assert "model" in json.dumps(await response.json())
        await until(lambda: members(kafka, f"{prefix}turnstream-usage"))
        assert [process.poll() for process in processes] == [None, None, None]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
