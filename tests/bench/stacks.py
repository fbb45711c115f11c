"""The processes of a bench: servers, the scripted model, ours, and the template beside it."""

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
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.bench.bare import PARTITIONS
from tests.bench.sampler import report

BARE_TOPICS = ("bare-turns", "bare-events")


@dataclass
class Bench:
    """What a measurement needs to know."""

    edge_port: int
    template_port: int
    bare_port: int
    pids: dict[str, int]
    template_pids: dict[str, int]
    bare_pids: dict[str, int]
    logs: Path
    settings: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    stacks: dict[str, Path] = field(default_factory=dict)

    def sampling(self) -> None:
        """Begin to sample, or end: then `stacks` holds what was seen."""
        for name in self.stacks:
            self.processes[name].send_signal(signal.SIGUSR2)

    def profile(self, rows: int = 25) -> str:
        """Return where worker and edge spent their CPU between the last two `sampling`."""
        parts: list[str] = []
        for name, path in self.stacks.items():
            deadline = time.monotonic() + 5
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            parts += [f"    profile of the {name}", *report(path, rows)]
            path.unlink()
        return "\n".join(parts)


async def _ready(name: str, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        if process.poll() is not None:
            raise SystemExit(f"{name} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            await asyncio.to_thread(urllib.request.urlopen, url, timeout=2)
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} is not ready:\n{log.read_text()[-2000:]}") from None
            await asyncio.sleep(0.1)
        else:
            return


def _database(admin: str, name: str) -> str:
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        connection.execute(f'CREATE DATABASE "{name}"')
    return urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))


async def _topics(kafka: str, names: list[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
    finally:
        await admin.close()


def _postmaster(database: str) -> int:
    """The pid of the server behind the URL, through one of its backends."""
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        stat = Path(f"/proc/{row[0]}/stat").read_text()
        return int(stat.rsplit(")", 1)[1].split()[1])


def _kafka_pid(bootstrap: str) -> int:
    """The process that listens on the broker's port; 0 when it is not of this machine."""
    import psutil

    port = int(bootstrap.rpartition(":")[2])
    for process in psutil.process_iter(["name"]):
        if process.info["name"] != "java":
            continue
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return int(process.pid)
    return 0


@contextlib.asynccontextmanager
async def running(settings: dict[str, str], *, sample: bool = False, compared: bool = True):
    """Start everything and stop it again; `settings` are TURNSTREAM_* for ours.

    `sample`: worker and edge run under `tests.bench.sampler`, see `Bench.sampling`. `compared` off:
    without the template and the bare path, so that they take nothing of the machine.
    """
    from turnstream.deploy.local import LocalStack
    from turnstream.deploy.local.machine import Ports

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        kafka = os.environ.get("TURNSTREAM_TEST_KAFKA", "")
        admin = os.environ.get("TURNSTREAM_TEST_DATABASE", "")
        if not (kafka and admin):
            local = stack.enter_context(LocalStack(folder / "stack"))
            kafka, admin = local.kafka_bootstrap, local.database_url
        free = Ports()
        ports = {name: free.take() for name in ("model", "worker", "edge", "template", "bare")}
        names = (f"bench{os.getpid()}_{who}" for who in ("ours", "template"))
        ours, theirs = (_database(admin, name) for name in names)
        prefix = f"bench{os.getpid()}-"
        await _topics(kafka, [f"{prefix}{name}" for name in BARE_TOPICS])
        env = (
            os.environ
            | {
                "TURNSTREAM_KAFKA_BOOTSTRAP": kafka,
                "TURNSTREAM_DATABASE_URL": ours,
                "TURNSTREAM_TOPIC_PREFIX": prefix,
                "TURNSTREAM_MODEL_URL": f"http://127.0.0.1:{ports['model']}/v1",
                "TURNSTREAM_MODEL_NAME": "scripted",
                "TURNSTREAM_LANGGRAPH_JSON": str(folder / "langgraph.json"),
                "BENCH_MODEL_URL": f"http://127.0.0.1:{ports['model']}/v1",
                "TURNSTREAM_EDGE_PORT": str(ports["edge"]),
                "TURNSTREAM_WORKER_HEALTH_PORT": str(ports["worker"]),
                "TURNSTREAM_LOG_LEVEL": "warning",
                "TURNSTREAM_EDGE_SOCKETS_PER_USER_MAX": "100000",
                "TURNSTREAM_EDGE_REQUESTS_PER_S_MAX": "100000",
            }
            | settings
        )
        brought = Path(__file__).with_name("brought.py")
        (folder / "langgraph.json").write_text(
            json.dumps({"graphs": {"brought": f"{brought}:graph"}})
        )
        stacks = {name: folder / f"{name}.stacks" for name in ("worker", "edge")} if sample else {}

        def cli(name: str) -> list[str]:
            under = ["-m", "tests.bench.sampler", str(stacks[name])] if sample else []
            return [sys.executable, *under, "-m", "turnstream.streams.cli", name]

        module = (sys.executable, "-m")
        commands = {
            "model": (
                [*module, "turnstream.deploy.local.scripted.server", "--port", str(ports["model"])],
                f"http://127.0.0.1:{ports['model']}/health",
            ),
            "worker": (cli("worker"), f"http://127.0.0.1:{ports['worker']}/readyz"),
            "edge": (cli("edge"), f"http://127.0.0.1:{ports['edge']}/readyz"),
            "template": (
                [sys.executable, "-m", "tests.bench.template", str(ports["template"]),
                 f"http://127.0.0.1:{ports['model']}/v1", theirs],
                f"http://127.0.0.1:{ports['template']}/openapi.json",
            ),
            "bare worker": (
                [*module, "tests.bench.bare", "worker", env["BENCH_MODEL_URL"], kafka, prefix],
                "",
            ),
            "bare edge": (
                [*module, "tests.bench.bare", "edge", str(ports["bare"]), kafka, prefix],
                f"http://127.0.0.1:{ports['bare']}/",
            ),
        }  # fmt: skip
        if not compared:
            commands = {name: commands[name] for name in ("model", "worker", "edge")}
        processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name, (command, url) in commands.items():
                log = folder / f"{name}.log"
                with log.open("wb") as out:
                    processes[name] = subprocess.Popen(command, env=env, stdout=out, stderr=out)
                if url:
                    await _ready(name, url, processes[name], log)
            pids = {name: process.pid for name, process in processes.items()}
            pids |= {"kafka": _kafka_pid(kafka), "postgres": _postmaster(ours)}
            servers = ("model", "kafka", "postgres")
            yield Bench(
                edge_port=ports["edge"],
                template_port=ports["template"],
                bare_port=ports["bare"],
                pids={name: pids[name] for name in ("worker", "edge", *servers)},
                template_pids=_of(pids, "template", "model", "postgres"),
                bare_pids=_of(pids, "bare worker", "bare edge", "model", "kafka"),
                logs=folder,
                settings=env,
                processes=processes,
                stacks=stacks,
            )
        finally:
            for process in reversed(processes.values()):
                process.terminate()
            for process in processes.values():
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _of(pids: dict[str, int], *names: str) -> dict[str, int]:
    return {name: pids[name] for name in names if name in pids}


def http_json(url: str, body: object) -> object:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
